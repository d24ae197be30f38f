"""Putting a tenant's rows back into live tables: staged, compared, decided, written, checked.

fit/                     how tables and columns of the backup fit today's schema
staging                  `want` and `have`: the backup's rows and live ones, in temporary tables
untouched                rows that nobody wrote since the backup
row_choice               which rows are meant
relationships/           what ties rows to others, and what follows from it
kept                     what a tenant's own users never take from a backup
modes                    what each merge mode decides
merge                    decides, writes only the differences
pace                     batches, and rests between them
transaction              the session and the one transaction of a restore
read_back                what was staged and written, against the backup's bytes
conflicts, foreign_keys  what would break, before; what holds, after
"""
