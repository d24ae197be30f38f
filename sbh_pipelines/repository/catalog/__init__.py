"""The catalog of a region: a record per tenant, merged without locks; and the tombstones of erased tenants."""
