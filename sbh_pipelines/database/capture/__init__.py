"""Reading rows: all of them in key order, or what changed since a snapshot; cut into row groups."""
