"""The life of keys: their rotation, and the erasure of a tenant, which ends with a signed certificate."""
