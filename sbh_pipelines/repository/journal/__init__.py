"""The change journal of a region as it is stored: who changed what of each tenant's rows, in the order of the commits.

Segments lie beside the catalog. A *segment* covers a range of the server's log; it holds sealed *blocks*, each of one tenant, and
a sealed *directory*. Whoever writes segments cannot read blocks: they are sealed to the tenant's public key.
Data flows from `changes` (values) through `block` and `segment` to `journal`, which lists segments and finds covers and gaps.
"""
