"""Filling an empty database, and what else is done outside live tables: roles, loads, throw-away databases, operators' SQL."""
