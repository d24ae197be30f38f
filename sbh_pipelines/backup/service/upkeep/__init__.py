"""Facets of what goes on beside making and restoring backups.

drills     rehearsed restores
health     how it all stands
journal    what changes between two backups
"""
