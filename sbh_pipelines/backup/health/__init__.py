"""How the backups stand. Nothing is taken from what runs said of themselves: repositories are looked at.

An *observation* is of one tenant, an *examination* of all tenants and regions, a *finding* one thing that is wrong.

    observation    what a tenant's repository shows, remembered by the process
    unusual_size   whether a backup is much smaller or larger than those before
    findings       what an observation means. No I/O
    examination    regions, keys and observations together
    report         the specification's health check and figures
    prometheus     the figures for a scraper
    storage        what the backups take up, and what it costs

Repository -> observation -> findings -> examination -> report, metrics, alerts.
"""
