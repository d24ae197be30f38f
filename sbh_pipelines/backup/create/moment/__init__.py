"""A backup of a moment of the past, put together from one that was made before it and from the change journal.

The *moment* is a place in the order of commits: what was committed before it is in, the rest is out. A *target* is how somebody
asks for it: by a time, by the transaction that is to be left out, or by a position of the server's log. The *base* is the backup
that it starts from; the tenant's transactions behind the base, up to the moment, are laid over it.
Data flows from `way` (which base, which transactions) through `tables`, `references` and `files` to `materialise`, which writes a
backup like any other, and in it what it says of itself (`backup/contents/moment_facts.py`).
"""
