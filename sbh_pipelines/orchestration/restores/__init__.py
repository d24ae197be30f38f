"""The jobs that bring a tenant back. None is repeated by itself.

jobs          restore and undo
config        their configuration, made of the options of a restore
into_schema   the job that puts an old state beside the live one
metadata      plans and results as tables
discretion    what a run may say of them
"""
