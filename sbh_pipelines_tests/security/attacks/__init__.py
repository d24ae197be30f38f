"""What attackers want, tried on real servers: one file a wish, named after it; none may get it.

The folders say who attacks: `tenant` (a tenant's own viewer, operator or admin, with a token), `insider` (people and runs of the
platform, with less than they want), `database` (who owns a table, a role or the server), `bucket` (who writes, reads or copied
objects), `host` (who shares the machine, or reads what a process prints), `outside` (proxies, hooks, issuers, browsers, pages).
docs/security.md names the test that holds each of its sentences.
"""
