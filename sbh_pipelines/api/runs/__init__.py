"""Long work as runs of Dagster.

    jobs         which job does which call, and its configuration
    launches     one call becomes one run: the tenant's claim, the idempotency key
    operations   runs as their callers see them: progress, result, error
    dagster      Dagster's GraphQL, the only way there

Call -> jobs -> launches -> dagster; dagster -> operations -> answer.
"""
