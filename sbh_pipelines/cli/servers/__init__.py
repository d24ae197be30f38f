"""The commands that start servers.

serve   the REST API
ui      Dagster's web UI behind a login
stack   the embedded servers, for one machine
"""
