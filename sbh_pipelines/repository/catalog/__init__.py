"""The catalog of a region: which backup describes each tenant, at which recovery point. A cache, never the only copy.

catalog   reads and appends objects; compacts them
records   what objects say, and how they merge without locks. No I/O
erased    tombstones: tenants for whom nothing may begin
owners    whose a repository is; those that were put aside
moves     tenants that went to another site, or come from one
"""
