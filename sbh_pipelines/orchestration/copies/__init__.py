"""Copies in Dagster.

copy_runs      the job and the schedule that bring copies up to date, and the asset `copies`
metadata       what a run leaves on the page of each copy, and of all of them
verification   the job that verifies what is at a copy
"""
