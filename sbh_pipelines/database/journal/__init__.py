"""The server's side of the change journal: publication, replication slot, fences, the stream of changes, who can be journaled.

Data flows from the slot through `stream` and `messages` (the wire format) to rows of COPY text.
"""
