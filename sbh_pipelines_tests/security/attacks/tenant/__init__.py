"""Attacks by a tenant's own viewer, operator or admin, who has a token of that tenant."""
