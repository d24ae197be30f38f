"""The change journal of a region as it is stored: who changed what of each tenant's rows, in the order of the commits.

Segments lie beside the catalog. A segment covers a range of the server's log; it holds sealed blocks, each of one tenant, and
a sealed directory (`segments`). Whoever writes segments cannot read blocks: they are sealed to the tenant's public key.
`journal` lists segments and finds covers and `gaps`; `reading` opens a tenant's blocks with its own keys.
"""
