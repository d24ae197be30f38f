"""The jobs that take care of what is there.

retention   forget by policy; prune and its schedule
keys        rotation
platform    the platform backup and its schedule
storage     what the backups take up, and its schedule
metadata    their results as tables
"""
