"""Telling people: what is wrong (conditions), in which words (alert), by which channels, once."""
