"""Reading rows, cut into row groups.

capture        all rows of tenants, in the order of their keys
changes        which rows are new or changed since a snapshot
deleted_rows   which are gone
row_groups     where the stream of rows is cut
tenant_keys    that no two tenants have one key
unreadable     a row that cannot be read fails its own tenant alone
"""
