"""Everything that Dagster runs: the only package that imports it.

    partition    one tenant, in the dynamic partition set `tenants`
    step         one of the five ops every backup goes through, for a batch of tenants
    asset        `tenant_backup/<type>`: the newest backup of that type, per tenant
    fleet job    the same steps with the tenants in the run's configuration: what the schedule launches

Nothing here decides anything about backups: each op asks the service, turns what it returns into metadata, and turns
its errors into failures that name the tenants. Loading the definitions reads no file and opens no connection.
"""
