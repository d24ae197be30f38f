"""The life of keys, and the end of a tenant. How keys are stored is `repository/keys/`; how they are wrapped, `security/`.

rotation         wrapped anew; a new data key; everything sealed anew
copy_rotation    the same in the copies
key_state        epochs, and who wraps them
erasure          a tenant's keys, then everything else of its backups, in every version
erased_copies    the same in the copies
erased_owner     of whom: of one tenant, though several had its slug
erasure_places   where that has to look
owner_change     a slug that changed hands: its repository handed over, or put aside
certificate      what was destroyed, what a copy made before could still open; signed
"""
