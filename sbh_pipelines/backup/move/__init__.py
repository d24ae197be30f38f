"""A tenant moved from one site to another, with one history of backups.

Two sites are two databases, each with buckets and keys of its own. `plan` opens both ends, says what a move would do and every
reason to refuse it; `move` brings the repository and puts the rows and files of the final backup into the other site; `proof`
holds both sites against that backup, and `files` reads the files for both; `end` ends a move at one site alone. Data flows from the
source to the target; at the source nothing is removed.
"""
