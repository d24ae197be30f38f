"""Settings of a session: which are pinned, and why the others are not.

A role, a database or a server may bring any value of any setting that a session may change. Those that decide how values are
read and written, what an operator means, which plans there are, or when the server ends a session, have one value in all
sessions of ours. A test holds both lists against the settings of real servers: one that is in neither fails it.

Settings that only superusers may change are not ours to set: the backup's role is none. `sbh doctor` looks at those of
them that change what is read.
"""

from collections.abc import Mapping

DEFAULT = None
"""The value that the server was built with."""

TIMEOUTS: Mapping[str, str] = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",  # from PostgreSQL 14 on
    "transaction_timeout": "0",  # from PostgreSQL 17 on
    "tcp_user_timeout": "0",
}
"""What would end a session of ours in the middle of its work. Where a wait is to be bounded, the code that waits says so."""

VALUES: Mapping[str, str] = {
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "timezone_abbreviations": "Default",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "xmlbinary": "base64",
    "xmloption": "content",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    "array_nulls": "on",
}
"""How values are written and read."""

PINNED: Mapping[str, str | None] = {
    **TIMEOUTS,
    **VALUES,
    "client_encoding": "UTF8",
    # how SQL is read and written
    "standard_conforming_strings": "on",
    "backslash_quote": "safe_encoding",
    "escape_string_warning": "off",
    "transform_null_equals": "off",
    "quote_all_identifiers": "off",
    "client_min_messages": "warning",
    "exit_on_error": "off",
    # which rows are seen, in which order
    "row_security": "off",
    "synchronize_seqscans": "off",
    "gin_fuzzy_search_limit": "0",
    "restrict_nonsystem_relation_kind": "",
    # transactions
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    # where what is made goes
    "default_tablespace": "",
    "default_table_access_method": "heap",
    "createrole_self_grant": "",
    # plans: whatever a role switched off for itself
    "jit": "off",
    "plan_cache_mode": DEFAULT,
    "constraint_exclusion": DEFAULT,
    "cursor_tuple_fraction": DEFAULT,
    "default_statistics_target": DEFAULT,
    "from_collapse_limit": DEFAULT,
    "join_collapse_limit": DEFAULT,
    "recursive_worktable_factor": DEFAULT,
    "stats_fetch_consistency": DEFAULT,
    "debug_parallel_query": DEFAULT,
    "force_parallel_mode": DEFAULT,  # its name before PostgreSQL 16
    "operator_precedence_warning": DEFAULT,  # before PostgreSQL 14
    **dict.fromkeys(
        (
            "geqo",
            "geqo_effort",
            "geqo_generations",
            "geqo_pool_size",
            "geqo_seed",
            "geqo_selection_bias",
            "geqo_threshold",
        ),
        DEFAULT,
    ),
    **dict.fromkeys(
        (
            "enable_async_append",
            "enable_bitmapscan",
            "enable_distinct_reordering",
            "enable_gathermerge",
            "enable_group_by_reordering",
            "enable_hashagg",
            "enable_hashjoin",
            "enable_incremental_sort",
            "enable_indexonlyscan",
            "enable_indexscan",
            "enable_material",
            "enable_memoize",
            "enable_mergejoin",
            "enable_nestloop",
            "enable_parallel_append",
            "enable_parallel_hash",
            "enable_partition_pruning",
            "enable_partitionwise_aggregate",
            "enable_partitionwise_join",
            "enable_presorted_aggregate",
            "enable_self_join_elimination",
            "enable_seqscan",
            "enable_sort",
            "enable_tidscan",
        ),
        DEFAULT,
    ),
    # what the log of the server would hold of our statements
    "debug_print_parse": "off",
    "debug_print_plan": "off",
    "debug_print_rewritten": "off",
    "log_parameter_max_length_on_error": "0",
}

# A commit that is answered before it is on disk may be lost, and the restore would be called complete. All other values keep it.
PINNED_INSTEAD_OF = {"synchronous_commit": ("off", "on")}

_CODE_OF_THE_APPLICATION = "code of the application reads it, and finds what it finds in the application's sessions"
_THE_MACHINE = "says what the machine is like: every plan gives the same rows"
_NOT_USED = "nothing that our sessions do depends on it"
_EACH_TRANSACTION = "of one transaction, which takes it from its default_ or says it itself"

UNPINNED: Mapping[str, str] = {
    "search_path": "set on its own: search_path.py",
    "application_name": "set on its own: what the session is for",
    "work_mem": "set on its own: database.work_mem_mib",
    "synchronous_commit": "the server's, unless it is off",
    "default_text_search_config": _CODE_OF_THE_APPLICATION,
    "temp_tablespaces": "where temporary files go is the administrator's",
    "default_toast_compression": "how values are stored is the server's",
    **dict.fromkeys(("transaction_deferrable", "transaction_isolation", "transaction_read_only"), _EACH_TRANSACTION),
    **dict.fromkeys(
        (
            "seq_page_cost",
            "random_page_cost",
            "cpu_tuple_cost",
            "cpu_index_tuple_cost",
            "cpu_operator_cost",
            "parallel_setup_cost",
            "parallel_tuple_cost",
            "min_parallel_index_scan_size",
            "min_parallel_table_scan_size",
            "jit_above_cost",
            "jit_inline_above_cost",
            "jit_optimize_above_cost",
            "effective_cache_size",
            "effective_io_concurrency",
            "maintenance_io_concurrency",
            "io_combine_limit",
            "backend_flush_after",
            "hash_mem_multiplier",
            "maintenance_work_mem",
            "temp_buffers",
            "max_parallel_maintenance_workers",
            "max_parallel_workers",
            "max_parallel_workers_per_gather",
            "parallel_leader_participation",
            "wal_skip_threshold",
            "commit_siblings",
            "gin_pending_list_limit",
            "file_copy_method",
        ),
        _THE_MACHINE,
    ),
    **dict.fromkeys(
        (
            "tcp_keepalives_count",
            "tcp_keepalives_idle",
            "tcp_keepalives_interval",
            "client_connection_check_interval",
        ),
        "how the server notices that we are gone; our own side keeps the connection alive",
    ),
    **dict.fromkeys(
        (
            "check_function_bodies",
            "icu_validation_level",
            "local_preload_libraries",
            "password_encryption",
            "md5_password_warnings",
            "scram_iterations",
            "debug_logical_replication_streaming",
            "debug_pretty_print",
            "jit_expressions",
            "jit_tuple_deforming",
            "logical_decoding_work_mem",
            "trace_notify",
            "trace_sort",
            "trace_syncscan",
            "wal_sender_timeout",
            "vacuum_buffer_usage_limit",
            "vacuum_cleanup_index_scale_factor",
            "vacuum_cost_delay",
            "vacuum_cost_limit",
            "vacuum_cost_page_dirty",
            "vacuum_cost_page_hit",
            "vacuum_cost_page_miss",
            "vacuum_failsafe_age",
            "vacuum_freeze_min_age",
            "vacuum_freeze_table_age",
            "vacuum_max_eager_freeze_failure_rate",
            "vacuum_multixact_failsafe_age",
            "vacuum_multixact_freeze_min_age",
            "vacuum_multixact_freeze_table_age",
            "vacuum_truncate",
        ),
        _NOT_USED,
    ),
}

# A firewall or a load balancer forgets a connection that is silent for some minutes; the server does not.
_ALIVE = {"keepalives": "1", "keepalives_idle": "60", "keepalives_interval": "15", "keepalives_count": "8"}


def keepalives(parts: Mapping[str, str]) -> dict[str, str]:
    """What to tell libpq besides the parts of a DSN, which count where they say it."""
    return {name: value for name, value in _ALIVE.items() if name not in parts}


QUIET: Mapping[str, str] = {
    "log_error_verbosity": "terse",
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_duration": "off",
}
"""What the server writes of our sessions into its own log: with these, no error and no statement, so no value of a row.

They are superusers' to set; from PostgreSQL 15 on a role may be granted each (GRANT SET ON PARAMETER), and then sets it.
"""

UNSAFE = {
    "zero_damaged_pages": "damaged pages are read as empty ones: their rows would be missing from backups without a word",
    "ignore_checksum_failure": "damaged pages are read as if they were whole: backups would hold what is on them",
}
"""Settings of superusers that change what is read; on is wrong for a backup."""


def pin(more: Mapping[str, str]) -> str:
    """The statement that gives a session its settings: the pinned ones, as far as the server has them, and `more`."""
    return _set({**PINNED, **more}, PINNED_INSTEAD_OF)


def pin_quiet() -> str:
    """The statement that keeps values of rows out of the server's log, as far as the role may. For PostgreSQL 15 and later."""
    listed = ", ".join(_row(name, None, value) for name, value in QUIET.items())
    return (
        "SELECT pg_catalog.set_config(p.name, p.value, false)"
        f" FROM (VALUES {listed}) AS p(name, found, value) WHERE pg_catalog.has_parameter_privilege(p.name, 'SET')"
    )


def pin_values() -> str:
    """The statement that makes sure of how values are written, in a session where code of the application has run."""
    return _set(VALUES, {})


def pin_timeouts() -> str:
    """The statement for sessions that run what pg_dump wrote, which sets all else itself."""
    return _set(TIMEOUTS, {})


def _set(values: Mapping[str, str | None], instead: Mapping[str, tuple[str, str]]) -> str:
    listed = [_row(name, None, value) for name, value in values.items()]
    listed += [_row(name, found, value) for name, (found, value) in instead.items()]
    # One round trip, whatever the server's version knows. All names are qualified: the search path is not ours yet.
    return (
        "SELECT pg_catalog.set_config(s.name, coalesce(p.value, s.boot_val), false) FROM pg_catalog.pg_settings s"
        f" JOIN (VALUES {', '.join(listed)}) AS p(name, found, value) ON pg_catalog.lower(s.name) OPERATOR(pg_catalog.=) p.name"
        " WHERE s.context OPERATOR(pg_catalog.=) 'user' AND (p.found IS NULL OR p.found OPERATOR(pg_catalog.=) s.setting)"
    )


def _row(name: str, found: str | None, value: str | None) -> str:
    return f"({', '.join('NULL' if text is None else _quoted(text) for text in (name, found, value))})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
