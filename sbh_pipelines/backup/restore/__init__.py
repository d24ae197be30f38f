"""Restoring one tenant in place: request -> plan -> safety backup -> merge -> proof -> commit.

`request` says what is asked for, `plan` what would be done, `restore` does it. `row_compare` finds what differs, `rows`
decides and writes it in one transaction, `row_proof` reads it back before the commit. `files` puts files back.
"""
