"""Putting a tenant's rows back into live tables: staged, compared, decided, written, checked.

row_choice, closure            which rows are meant, and what hangs on them
links, parents                 what ties rows to others; what rows that come back hang on
mapping, columns               how tables and columns of the backup fit today's schema
renames, conversion            declared renames; types that keep every value
partitions                     rows for which there is no partition any more
staging                        `want` and `have`: the backup's rows and live ones, in temporary tables
untouched                      rows that nobody wrote since the backup
followers                      rows of nobody that hang on what comes back
adoption                       live rows of nobody that hold keys of the backup's rows
returning                      live rows of nobody that will be the tenant's, since their parents come back
modes                          what each merge mode decides
merge                          decides, writes only the differences, reads them back
references, consequences       rows outside the restore that refer to rows which go
conflicts, foreign_keys        what would break, before; what holds, after
"""
