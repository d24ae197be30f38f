"""The audit trails, read. They are written by `backup/site/audit_trails.py`, and stored by `repository/trail/`.

    verify       a trail held against its repository: what has no event, what is gone without one
    export       a trail as one file that can be checked years later, without store, keys or this program
    compliance   what trails and repositories show for a period, by control

Trails and manifests in; findings, files and reports out. Nothing is written to a trail but that it was read.
"""
