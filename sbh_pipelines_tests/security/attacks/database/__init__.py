"""Attacks by who owns a table, a role or a schema of the application's database."""
