"""Servers and data that many tests share. Each pytest run starts its own stack and takes it down."""

import gc
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.sample import data as sample
from sbh_pipelines.embedded.servers.stack import Stack, running
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings import load_settings
from sbh_pipelines_tests.support.application import Application
from sbh_pipelines_tests.support.databases import fresh_database
from sbh_pipelines_tests.support.effort import load_profile
from sbh_pipelines_tests.support.fix_ui import ui
from sbh_pipelines_tests.support.kept_drivers import keep_drivers
from sbh_pipelines_tests.support.on_versions import on_another_version
from sbh_pipelines_tests.support.ram_disk import use_ram_disk

__all__ = ["ui"]  # a fixture, made elsewhere

use_ram_disk()
load_profile()
keep_drivers()

# A developer's own settings must not leak into the tests.
for name in [n for n in os.environ if n.startswith(("SBH_", "DAGSTER_"))]:
    del os.environ[name]

# Bytecode is kept whatever the environment says: without it each process of the tests needs twice as long to load them, and all
# that they start compile anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The S3 servers of the tests answer one small request after another. With more than one thread to run Go on, each request wakes
# others, which takes a sixth of the servers' time.
os.environ["GOMAXPROCS"] = "1"

# No test outlives a power cut. What is brought to disk, and in which order, `stores/test_durability.py` watches.
os.fsync = lambda descriptor: None

_TESTS = Path(__file__).parent

# Files with long tests, the longest first: begun last, each would keep the other process waiting.
_LONG = (
    "test_two_hosts",
    "test_daemon",
    "test_demo",
    "test_sites",
    "test_runbooks",
    "test_retention",
    "test_columns",
    "test_journal_machine",
    "test_journal_incremental",
    "test_backup_and_restore",
    "test_erased_copies",
    "test_crash",
    "test_products",
    "test_contract",
    "test_from_copy",
    "test_damage",
    "test_operations",
    "test_prune",
    "test_copies",
    "test_fence",
    "test_accessibility",
    "test_chromium",
    "test_store_faults",
    "test_drain",
    "test_journal_incremental_machine",
    "test_incremental_files",
    "test_incremental_rows",
    "test_incremental_machine",
    "test_policies",
    "test_marks_that_keep_others_from_their_backups",
    "test_restore_kill",
    "test_promotion",
    "test_faces",
    "test_tenant_copy",
    "test_pages",
    "test_run",
    "test_key_rotation",
    "test_restore_drift",
    "test_copy_alerts",
    "test_transfer",
    "test_upkeep",
    "test_destroying_a_copy",
    "test_restore_matrix",
    "test_wraparound",
    "test_real_runs",
    "test_region_lost",
    "test_wrecks",
    "test_access",
    "test_sixty_days",
    "test_random_moments",
    "test_journal_prediction",
    "test_undo",
    "test_ending_a_process_by_objects_without_bounds",
    "test_wrapping",
    "test_other_verbs",
    "test_rebuild",
    "test_doctor",
    "test_erase",
    "test_restore_by_changes",
    "test_verification",
    "test_journal_quiet_changes",
    "test_auditing",
    "test_copy_machine",
    "test_slug_changes_hands",
    "test_owner_change",
    "test_export",
    "test_stack",
    "test_restore_rows",
    "test_journal_health",
    "test_compaction_machine",
    "test_life",
    "test_restore_live",
    "test_drill",
    "test_incremental_soak",
    "test_audit_trail",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if left_out := on_another_version(items):
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]
    places = {name: nth for nth, name in enumerate(_LONG)}
    modules = {module: nth for nth, module in enumerate(dict.fromkeys(item.path for item in items))}

    def order(item: pytest.Item) -> tuple[int, int]:
        return places.get(item.path.stem, len(_LONG)), modules[item.path]

    items.sort(key=order)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """What is collected stays until the end: the garbage collector need not look at it while it grows, nor ever after."""
    gc.disable()
    try:
        _import_a_share_first(session.config)
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def _import_a_share_first(config: pytest.Config) -> None:
    """Where nothing is compiled yet each worker would compile every file, 20 seconds of a core. So each begins with files of its
    own, and finds the others compiled when it comes to them.
    """
    worker = getattr(config, "workerinput", None)
    if worker is None or [config.rootpath / argument for argument in config.args] != [_TESTS]:
        return
    files = sorted(_TESTS.rglob("test_*.py"))
    first = len(files) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
    for file in files[first:] + files[:first]:
        with suppress(Exception, pytest.skip.Exception):  # the collection comes to it again, and says so
            import_module(".".join(file.relative_to(config.rootpath).with_suffix("").parts))


def pytest_itemcollected(item: pytest.Item) -> None:
    """What hypothesis draws is a hunt."""
    if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
        item.add_marker("soak")


@pytest.fixture(scope="session")
def embedded_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """PostgreSQL 18, SeaweedFS and moto's KMS, empty."""
    with running(tmp_path_factory.mktemp("stack"), fsync=False) as stack:
        yield stack


@pytest.fixture(scope="session")
def application_template(embedded_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a database with the tables and rows of `Application`."""
    with fresh_database(embedded_stack) as made:
        Application(made, tmp_path_factory.mktemp("template")).create_tables()
        made.let_go()
        yield made.name


@pytest.fixture(scope="session")
def sample_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of its own with the sample SaaS in it: six tenants."""
    with running(tmp_path_factory.mktemp("sample"), fsync=False, kms=False) as stack:
        sample.generate(stack, tenants=6, rows=6000, files=60, seed=11)
        yield stack


@pytest.fixture
def sample_service(sample_stack: Stack) -> BackupService:
    """The service over `sample_stack`, its settings loaded afresh."""
    return BackupService(load_settings(sample_stack.settings))


@pytest.fixture
def admin() -> UserContext:
    return UserContext("tester", "*", Role.ADMIN)


@pytest.fixture
def settings_file(sample_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SBH_SETTINGS points at the sample stack's settings."""
    monkeypatch.setenv("SBH_SETTINGS", str(sample_stack.settings))
    return sample_stack.settings
