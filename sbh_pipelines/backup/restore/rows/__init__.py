"""The rows of a restore, all in its one transaction: compared -> decided -> written -> read back.

row_restore          which tables; the steps in their order
compare              what differs is found and staged: by row groups (groups), by buckets of keys (buckets)
conflicts, samples   rows that cannot come back, and some of what would change, as the plan shows them
problems             why the rows cannot be written
references           rows outside the restore that refer to rows which go
proof                read back before the commit
"""
