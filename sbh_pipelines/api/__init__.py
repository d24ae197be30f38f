"""The REST API: an application of its own that asks the service, and launches long work as runs of Dagster."""
