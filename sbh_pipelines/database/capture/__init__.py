"""Reading rows, cut into row groups.

capture      all rows of tenants, in the order of their keys
changes      what is new, changed or deleted since a snapshot
row_groups   where the stream of rows is cut
"""
