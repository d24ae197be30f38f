"""Making backups: from one snapshot of the database to published manifests, for a batch of tenants.

A *draft* is a backup that is being made; it holds the tenant's lease. The steps take drafts and return drafts:
`snapshot_step` reads the tables once for all tenants of the batch, `files` lists and reads files, `publish` writes
component documents, verifies, and commits the manifest. `unchanged` finds the tenants that need no backup at all.
"""
