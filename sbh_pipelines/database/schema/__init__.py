"""What the database has, and whose it is.

    catalog           tables, columns, keys, partitions: PostgreSQL's catalogue in six queries
    tenancy           the tenancy map: which rows of which table are a tenant's
    mapping           a room of its own: how the map is made
    listing           the relation that lists the tenants: a table or a view
    table_header      what a backup says of a table: its columns, their types, its key
    tenants           the application's list of tenants
    definition        a fingerprint of what a table is
    key_hash          keys as numbers: buckets and hashes
    file_references   the object keys that rows refer to
    inspect           what `sbh doctor` asks
    samples           looks at rows, for suggestions

`catalog` and the settings -> `tenancy` -> capture and merge.
"""
