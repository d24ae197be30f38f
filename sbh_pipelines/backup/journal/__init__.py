"""The change journal at work: drained from the database, asked what changed, kept and thrown away.

*Drain* reads the server's stream up to a fence of our own, finds out whose each change is, and writes a segment per region.
*Window* answers what changed of a tenant between two snapshots, or why the journal cannot tell.
"""
