"""Reading rows, cut into row groups.

capture        all rows of tenants, in the order of their keys
tenant_cutter  rows of many tenants in one stream, taken apart
key_sums       the sums of such rows
changes        which rows are new or changed since a snapshot
deleted_rows   which are gone
keyed_rows     rows and hashes by keys that are known
line_file      lines out of a COPY
line_sums      whether two sets of rows are the same to the last byte
row_groups     where a tenant's rows are cut
text_rows      values for people to read, whatever bytes they have
tenant_keys    that no two tenants have one key
unreadable     a row that cannot be read fails its own tenant alone
"""
