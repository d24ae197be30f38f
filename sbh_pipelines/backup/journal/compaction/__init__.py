"""Segments merged into larger ones, so that a moment days back takes few requests to reach.

    plan     which neighbours become one segment: those of an hour, then those of a day. No I/O
    facts    what the merged segment says, put together of what its sources say
    merge    the merged segment, written: blocks are copied as they are, sealed, those of erased tenants left out
    retired  which sources may go: those that a merged segment has stood in for long enough

A merged segment is written and read back before any source goes, and sources go a day later: whoever planned with the old list
still finds them. So a process that is killed anywhere leaves nothing to mend: what overlaps is counted once by every reader.
"""
