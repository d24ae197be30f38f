"""What every job shares.

resources           the service as a resource, and the user that a run acts for
names               what Dagster keeps by name, named for the site
assets              partitions and asset keys
batch               the tenants of a run, and how a batch ends when some fail
failed_tenants      the tenants that failed in a run, as it leaves them to alerts and the API
failures            our errors as Dagster's
runs                what a run is about, read from its tags and configuration
timetable           the slots of a schedule
metadata            results as numbers and tables
links               addresses of Dagster's pages
outputs             what the steps of a run hand to each other
dagster_internals   the interfaces of Dagster that are not public
"""
