"""The REST API: the specification's endpoints, and what users need around them. Started by `sbh serve`.

call        one request, by whom and for which tenant
problem     the answer to a call that failed: RFC 9457, with the fields of `errors.py`
operation   long work: a run of Dagster that a call launched, queued and limited like all other runs
launch      how a call becomes a run: the claim of the tenant, what runs already, the idempotency key, GraphQL

It has no logic of its own about backups and none about permissions: the service answers, and refuses. Only what belongs to
HTTP is here: tokens in headers, limits, pages, documents. Dagster is reached through GraphQL, never imported.
"""
