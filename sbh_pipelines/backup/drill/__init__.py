"""Drills: a tenant restored into a throw-away place, proved, timed, thrown away.

A *scenario* is a kind of loss; it is made of *parts*, each restored once. An *objective* is how long it may take.

    scenarios                  which parts a scenario is made of
    drill                      runs the parts, adds up their times
    config_part, files_part    the parts that need no recovery; the database's is a recovery of one tenant
    proof                      what must be true of the drilled database
    records                    a signed record per drill, in the tenant's repository
    recovery_report            records against objectives, over all tenants
"""
