"""An audit trail: events chained by hashes, signed, appended to, never changed.

event    an event as bytes, and its signature
trail    appends; several at once share an object
reader   the newest first
check    every link, every signature, and the end against the head
"""
