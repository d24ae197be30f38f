"""Backups that ask the change journal what changed, and look only through tables of which it cannot tell.

Each batch is a *journal view*: the journal drained to behind the batch's snapshot, asked for each tenant. What it tells of a tenant
is a *tenant journal*: which tables are covered, and what happened to their keys. A *table fold* makes the next state of a
table of that, as the scan of the table would, byte for byte.
What the journal leads to, its *prediction*, is held against what a full backup read.
"""
