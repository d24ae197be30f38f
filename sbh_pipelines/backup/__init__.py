"""The verbs of the product over one site: create, retain, restore, recover, drill, export, and what watches them.

Data flows downwards only:

    service     the facade that Dagster, the CLI, the REST API and Python call: checks rights, records, delegates
    health, audit                          how the backups stand; who did what
    drill                                  a restore rehearsed, proved and timed
    restore, recover, export, keys         one tenant in place; everything after complete failure; a folder; key rotation, erasure
    retain                                 which backups are kept: policy, holds, forget, prune
    create                                 the five steps from a snapshot to a published manifest
    contents                               what a backup is: manifest, components, tables, files. Knows no lease and no Dagster
    site                                   settings, clock, keys, and the stores and repositories they lead to
"""
