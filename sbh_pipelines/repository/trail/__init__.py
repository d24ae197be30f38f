"""An audit trail: events chained by hashes, signed, appended to, never changed.

event    an event as bytes, and its signature
end      where a trail ends, and what a writer remembers of it
trail    appends; several at once share an object
reader   the newest first
check    every link, every signature, and the end against the head
"""
