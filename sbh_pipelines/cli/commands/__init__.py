"""The commands, a file per group: each parses, calls the service, prints."""
