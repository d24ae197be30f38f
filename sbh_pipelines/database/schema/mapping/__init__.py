"""How the tenancy map is made: for each table the way from its rows to their tenant.

    mapped_table   values: a table's status, its way, the map
    mapper         statuses by name first, then inheritance from the owned tables outwards
    ways           which foreign keys lead to a tenant, the best first
    outside        tables of other schemas that may be tenants'

`database/schema/tenancy.py` gives the map to everybody else.
"""
