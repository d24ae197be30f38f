"""The commands that start servers: the REST API, the guarded web UI, the embedded stack."""
