"""The application's PostgreSQL database. The only package that knows psycopg2.

owned        a table with the tenant column
inherited    a table whose rows follow a parent by foreign key
declared     a table whose link is written in the settings
tenants      the table that lists the tenants; a tenant's own row is configuration
shared       a table all tenants share; not in tenant backups
excluded     a table deliberately left out
row group    rows of one tenant in one table between two keys; one chunk

Floors, each importing only those below it:

    rebuild   fill an empty database; roles, throw-away databases, operators' SQL
    merge     put rows back into live tables
    capture   read rows: all of them, or what changed
    schema    catalogue, tenancy map, tenants, keys
    session   connections, snapshots, COPY, pg_dump
"""
