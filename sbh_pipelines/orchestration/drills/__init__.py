"""Drills in Dagster.

    jobs       the asset of drills with its check, the recovery report, the job, the schedule
    metadata   what was measured, as metadata that can be plotted

The schedule -> the tenant drilled longest ago -> the service -> a materialization and a check.
"""
