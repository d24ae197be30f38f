"""What the worker of a run has when it begins, imported in the process that workers are forked from."""

from importlib import import_module

import migrations

for name in (
    "botocore.httpsession",
    "dagster._cli",
    "dagster._core.executor.in_process",
    "dagster._core.instance.factory",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._core.storage.root",
    "dagster._core.storage.sqlite_storage",
    "dagster._grpc.impl",
    "psycopg2",
    "pyarrow.compute",
    "sbh_pipelines.backup.service.service",
    "sbh_pipelines.database.capture.key_sums",
    "sbh_pipelines.database.capture.tenant_cutter",
    "sbh_pipelines.definitions",
    "upath.implementations.local",
):
    import_module(name)
migrations.read_for_runs()
