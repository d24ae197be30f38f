"""The engine: a folder per verb, over one site. Data flows downwards only.

service                            every call of a face: the gate, a facet per noun
health, audit                      how the backups stand; who did what
drill                              a restore rehearsed, proved and timed
restore, recover, export, keys     one tenant in place; everything after complete failure; a folder; rotation and erasure
approvals                          a second person's consent to one restore
retain                             which backups are kept: policy, holds, forget, prune
create                             from a snapshot to a published manifest
contents                           what a backup is. Knows no lease and no Dagster
site                               settings, clock, keys, and the stores and repositories they lead to
"""
