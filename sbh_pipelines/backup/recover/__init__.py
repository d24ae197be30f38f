"""After complete failure: an empty server and empty buckets, from backups alone.

A *platform backup* is what tenants share and what an empty server needs first. A *recovery* runs in phases.

    platform_backup   makes and reads platform backups
    recovery          the phases in their order, and the report; a killed run goes on where it was
    schema            the phases that are about no tenant: roles, schema, shared rows, sequences
    tenant            one tenant's newest sound backup, loaded and proved in one transaction
    files             what is missing in the bucket is put back

Platform backup -> roles, schema -> each tenant -> indexes and constraints -> sequences, files.
"""
