"""Reading rows, cut into row groups.

capture        all rows of tenants, in the order of their keys
changes        which rows are new or changed since a snapshot
deleted_rows   which are gone
row_groups     where the stream of rows is cut
"""
