"""Restoring one tenant in place: request -> plan -> safety backup -> merge -> proof -> commit.

request                   what is asked for; every option, declared once
plan                      what would be done, and every reason to refuse
restore                   the steps in their order, in one transaction
context                   what the steps share
rows                      compared, decided by mode, written, read back before the commit
files                     compared, put back, removed
safety_backup, left_rows  the way back, made before anything is written
hooks, events, status     maintenance; the audit trail; how far it is
records                   what restores did, and what undoes them
into_schema               rows to look at, in a schema of their own
"""
