"""What the database has: its catalogue, the tenancy map (which rows are whose), tenants, definitions.

`key_hash` turns keys into numbers; `file_references` reads the object keys that rows refer to.
"""
