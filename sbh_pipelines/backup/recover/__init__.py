"""After complete failure: an empty server and empty buckets, from backups alone.

`platform_backup` is what tenants share and what an empty server needs first. `recovery` runs the phases: `schema`, then each
`tenant` and its `files`. A killed run goes on where it was.
"""
