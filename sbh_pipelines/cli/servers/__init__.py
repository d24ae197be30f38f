"""The commands that start servers.

serve    the REST API, and the console
console  where the console is
ui       Dagster's web UI behind a login
stack    the embedded servers, for one machine
"""
