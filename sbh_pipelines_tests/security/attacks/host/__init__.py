"""Somebody who shares the machine, or reads what a process prints."""
