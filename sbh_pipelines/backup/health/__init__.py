"""How the backups stand: an *observation* is of one tenant, an *examination* of all of them, a *finding* what is wrong.

`report` answers the specification's health check and its figures, `prometheus` the figures for a scraper.
"""
