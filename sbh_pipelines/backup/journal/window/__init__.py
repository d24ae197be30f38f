"""What happened between two snapshots, for backups that need not look at the tables.

A *snapshot* says which transactions a backup shows. The *tail* is the end of the region's chain, read backwards as far as somebody
needs it. A *window* answers, for many tenants up to one snapshot, what the journal can tell and what happened.
"""
