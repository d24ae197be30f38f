"""Filling an empty database, and what else is done outside live tables.

    run            is the target empty, and how far is the recovery
    roles, shared  what a database has besides rows: roles, grants, extensions, sequences, keys
    load           rows by COPY, and what is checked afterwards
    script         what pg_dump wrote, statement by statement; script_run runs it
    new_schema     rows in a schema of their own
    throwaway      databases of drills: made, looked at, dropped
    operator_sql   SQL of the settings: hooks and assertions

Backup -> roles -> schema -> `load` -> constraints -> sequences.
"""
