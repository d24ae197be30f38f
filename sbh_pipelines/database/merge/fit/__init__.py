"""How the tables of a backup fit today's schema.

mapping      tables and columns of the backup, and what became of them
columns      a column's value as the table wants it now
renames      tables and columns whose names the settings say changed
conversion   types that keep every value
partitions   rows whose partition is gone
"""
