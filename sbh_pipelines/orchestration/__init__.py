"""Everything that Dagster runs: the only package that imports it.

partition    one tenant, in the dynamic partition set `tenants`
step         one of the five ops every backup goes through, for a batch of tenants
asset        `tenant_backup/<type>`: the newest backup of that type, per tenant
fleet job    the same steps with the tenants in the run's configuration: what the schedules launch

    backups, restores, drills, upkeep   assets, jobs and schedules, by noun
    alerting                            sensors that find what is wrong, and channels that say it
    hosts                               runs on several hosts: heartbeats, and Celery
    guarded_ui                          Dagster's web UI behind a login
    common                              what every job shares

Nothing here decides anything about backups: an op asks the service, turns results into metadata and errors into failures
that name the tenants. Loading the definitions opens no connection; of the settings it reads which copies there are.
"""
