"""What people see of the journal: what was done to a tenant, to which moments it can be brought, how the journal itself stands.

    chains               what the segments of a region say together
    windows              how far each backup leads; no I/O
    recovery_windows     the same of tenants, with their backups
    unchanged            that a tenant was later what a backup of it says
    standing             up to when tenants' rows are told now, for who asks often
    show                 a tenant's transactions
    status               slot, segments, gaps

Nothing in here changes anything.
"""
