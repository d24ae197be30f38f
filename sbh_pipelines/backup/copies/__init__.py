"""Copies: the backups once more, in another region or with another provider.

A copy is byte for byte what the source has, but for the keys, which are wrapped for the copy's own KMS. `place` opens both ends;
`copier/` brings over what is not there, in an order in which every interruption is harmless; `wrapping` brings the keys; `run`
does all of it for a copy. `verification` reads the copy alone, with its own keys; `state` says until when each tenant was found
whole there, `status` how far that is behind. `retention`, `locks` and `upkeep` keep what the copy's own policy
says. `promotion` makes a copy the place where backups are made. Data flows from the source to the copy, never back.
"""
