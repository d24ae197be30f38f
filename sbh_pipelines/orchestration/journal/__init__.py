"""The change journal in Dagster.

drains      the asset `change_journal`, its job and its schedule: what was committed since the last drain, written down
shown       the job that shows a tenant's moments and transactions
moment      the job that puts a backup of a moment together
strip       moments as a bar that can be read at a glance
metadata    what drains, moments and transactions say, as numbers and tables
"""
