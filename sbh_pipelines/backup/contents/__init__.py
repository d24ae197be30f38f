"""What a backup is, once it is written: the stored documents and how they are read. No lease, no policy, no Dagster.

A *manifest* names three *components* (database, files, config). The database component lists *stored tables*: row groups
from when all of a table was read (the *base*) and *layers* of what changed since. The files component leads to the *file
list*. Long parts of a component are *lines of JSON* in chunks. `verification` walks from a manifest down to every chunk.
"""
