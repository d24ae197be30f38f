"""The assets, jobs, checks and schedules that make and validate backups.

    schedules, due   a tick: which tenants are due, in which batches
    steps            the five ops
    assets, jobs     the ops as assets per type, and as the fleet job
    checks, record   what a run leaves: checks, materializations, observations
    metadata         what a backup says on its page: a sentence, links, figures, tables
    validation       the job that validates

A tick -> `due` -> a run -> `steps` -> the service -> `record`, `checks`.
"""
