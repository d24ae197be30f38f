"""Putting rows back into live tables: mapping, staging, comparing, deciding by mode, conflicts, writing, checking."""
