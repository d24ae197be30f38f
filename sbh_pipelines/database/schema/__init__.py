"""What the database has: its catalogue, the tenancy map (which rows are whose), tenants, keys, definitions."""
