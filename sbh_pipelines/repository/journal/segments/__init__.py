"""What the journal stores: a segment, its directory, its blocks, and the values in them.

`changes` are values, `makeup` what a table's columns were; a `block` holds a tenant's transactions, sealed to its `public_key`; the
`directory` says whose blocks lie where; a `segment` is the object, made in a file that `room` has for it. `names` tell a segment's
range, and `cover` which segments together tell all of one.
"""
