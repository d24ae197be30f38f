"""Which backups are kept.

    policy   which rule keeps which backup. Pure, without a clock
    holds    pins and legal holds: what stands above the policy
    forget   drops the manifests that nothing keeps
    journal_floor      from where on the change journal is kept: what the oldest promised moments need
    journal_retention  has the journal merged, and what lies before the floor removed
    prune    marks what is needed, and has `repository/prune.py` give back the rest

Backups, policy and holds in; manifests deleted by `forget`; their data retired, and a day later removed, by `prune`.
"""
