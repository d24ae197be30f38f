"""A tenant's own files: objects below its prefix in the application's bucket.

listing    which files there are, complete and in one order, and their fingerprint
common_listing  the same of many tenants, by one listing of them all
file       one file, read as it was listed, cut into slices
patterns   `*`, `**` and `?` over paths, as in shells
"""
