"""The routes, a file per noun. Each checks a body, asks the service or launches a run, and answers.

backups, restores, approvals, operations   the routes of that tag
platform                                   tenants, health, metrics, audit
"""
