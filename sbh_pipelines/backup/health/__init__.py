"""How the backups stand: an *observation* is one look at a tenant, an *examination* all of them, a *finding* what is wrong.

`report` answers the specification's health check, `metrics` its figures, `prometheus` the same for a scraper.
"""
