"""The life of keys, and the end of a tenant. How keys are stored is `repository/keys/`; how they are wrapped, `security/`.

key_state                    epochs and wrapping keys of an owner, without unwrapping any
rotation                     wrapped anew; a new data key; everything sealed anew
erasure                      a tenant's keys, then everything else of its backups, in every version
erasure_places, erased_keys  where that has to look, and what a copy made before could still open
certificate                  what was destroyed, signed
"""
