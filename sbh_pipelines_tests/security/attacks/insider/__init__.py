"""Attacks by people of the platform, and by runs, that have less than they want."""
