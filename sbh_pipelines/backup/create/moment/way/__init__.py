"""The way to a moment: from which backup, along which segments of the journal, and where it ends. Nothing is written.

`target` is what was asked for, `choice` what besides. `base` gives the backups, `chain` the segments; `stop` says
which transactions are in, `told` of which tables the journal tells all. `lay` merges the changes, `plan` tries
one base after the other, and `reach` says why none leads there.
"""
