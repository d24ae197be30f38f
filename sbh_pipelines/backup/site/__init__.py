"""The site: one set of settings and everything they lead to.

`Site` opens stores, repositories and catalogs by tenant and shares them between threads. `store_binding` proves that a store
may lie where it lies before anything is written there; `fence` keeps a place from being written to that a copy took over from.
`audit_trails` is where every verb records what it did.
"""
