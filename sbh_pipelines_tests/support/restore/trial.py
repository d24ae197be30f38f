"""An application to restore into, what may be chosen of it, and the comparison with the second implementation."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.document import as_document
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import SbhError
from sbh_pipelines_tests.support.application import ACME, ADMIN, KEYS, Application
from sbh_pipelines_tests.support.databases import Database, fresh_database
from sbh_pipelines_tests.support.restore.expectations import EXACT, MISSING_ONLY, NEWEST_WINS, Counts, Expected, State
from sbh_pipelines_tests.support.restore.sample_application import CONFIG, MODEL, OWNED, SampleApplication, Snapshot

MODES = (EXACT, MISSING_ONLY, NEWEST_WINS)
Rows = Callable[[State, State, str], Expected]  # (then, now, mode)


@dataclass(frozen=True)
class Scope:
    """A request, and what it chooses: rows by the model, files by an expression of the path. None: none of them."""

    request: Mapping[str, Any]
    rows: Rows | None = None
    files: str | None = None
    spare: tuple[str, ...] = ()  # whose rows the damage must not add or delete, or a part could not come back alone


def _tables(*names: str) -> Rows:
    return lambda then, now, mode: MODEL.restore_tables(then, now, str(KEYS[ACME]), mode, names)


def _projects(then: State, now: State, mode: str) -> Expected:
    chosen = ("2", "6", "8", "16", "20", "28")
    return MODEL.restore_rows(then, now, str(KEYS[ACME]), mode, "projects", lambda row: row["id"] in chosen)


def _tasks(then: State, now: State, mode: str) -> Expected:
    def chosen(row: Mapping[str, str | None]) -> bool:
        return int(row["project_id"] or 0) < 18 and int(row["nr"] or 0) < 3

    return MODEL.restore_rows(then, now, str(KEYS[ACME]), mode, "tasks", chosen)


# Damage that every scope can undo: in place, in another database.
SEEDS = {EXACT: (4, 13), MISSING_ONLY: (7, 22), NEWEST_WINS: (11, 20)}
SCOPES = {
    "tenant": Scope({}, _tables(*OWNED), ".*"),
    "tables": Scope(
        {"tables": ("tasks", "public.comments", "notes")}, _tables("tasks", "comments", "notes"), spare=("projects",)
    ),
    "rows": Scope({"rows": "projects where id in (2, 6, 8, 16, 20, 28)"}, _projects),
    "rows by composite key": Scope({"rows": "tasks where project_id < 18 and nr < 3"}, _tasks),
    "files": Scope({"files": ("docs/*", "g")}, None, r"docs/[^/]*|g"),
    "config": Scope({"config_only": True}, _tables(*CONFIG)),
    "tables and files": Scope(
        {"tables": ("comments",), "files": ("docs/**",)}, _tables("comments"), r"docs/.*", spare=("projects", "tasks")
    ),
    "rows and files": Scope(
        {"rows": "projects where id in (2, 6, 8, 16, 20, 28)", "files": ("pictures/*",)}, _projects, r"pictures/[^/]*"
    ),
}


@dataclass
class RestoreTrial:
    """The module's application, its backup, and what was backed up."""

    sample: SampleApplication
    other: Database  # has the schema, and is not backed up
    backup_id: str
    then: Snapshot

    def restored(self, scope: Scope, mode: str, seed: int, database: Database | None = None) -> dict[str, Any]:
        """Damage, plan, restore, and compare everything with what was to be expected; the result."""
        self.sample.reset(database)
        self.sample.damage(seed, database=database, spare=scope.spare)
        before = self.sample.snapshot(database)
        expected = self._expected(scope, mode, before)
        assert not expected.broken, "choose another seed: this damage cannot be undone"
        request = RestoreRequest.of(**scope.request, mode=mode)
        service, into = self.sample.service(), database.dsn if database else None

        plan = as_document(service.restores.plan(self.backup_id, ACME, ADMIN, request, into_database=into))
        assert self.sample.snapshot(database) == before
        assert (plan["problems"], plan["mode"]) == ([], mode)
        assert numbers(plan["tables"], "insert", "update", "delete", "kept") == told(expected)

        result = service.restore_backup(self.backup_id, ACME, ADMIN, request=request, into_database=into)
        after = self.sample.snapshot(database)
        assert {t: Counter(rows) for t, rows in after.rows.items()} == {
            t: Counter(rows) for t, rows in expected.state.items()
        }
        assert after.of_others(ACME) == before.of_others(ACME)
        assert numbers(result["tables"], "inserted", "updated", "deleted", "kept") == told(expected)
        assert written(before, after) == sum(c.insert + c.update for c in expected.counts.values())
        files, counts = restored_files(scope, mode, self.then.files[ACME], before.files[ACME], database is None)
        assert after.files[ACME] == files
        assert {name: plan["files"][name] for name in counts} == counts
        assert result["files_restored"] == counts["missing"] + counts["different"]
        return result

    def _expected(self, scope: Scope, mode: str, before: Snapshot) -> Expected:
        if scope.rows is None:
            return Expected({t: list(rows) for t, rows in before.rows.items()}, {})
        return scope.rows(self.then.rows, before.rows, mode)

    def refused(self, kind: type[SbhError] | tuple[type[SbhError], ...], **request: Any) -> tuple[dict[str, Any], str]:
        """The restore is refused and nothing has changed, rows or files; the plan, and the error's text."""
        service, before = self.sample.service(), self.sample.snapshot()
        chosen = RestoreRequest.of(**request)
        plan = as_document(service.restores.plan(self.backup_id, ACME, ADMIN, chosen))
        assert plan["problems"]
        assert self.sample.snapshot() == before
        with pytest.raises(kind) as caught:
            service.restore_backup(self.backup_id, ACME, ADMIN, request=chosen)
        assert self.sample.snapshot() == before
        return plan, str(caught.value)


def numbers(tables: list[dict[str, Any]], *names: str) -> dict[str, tuple[int, ...]]:
    """By table, where anything is to happen or to stay."""
    found = {t["table"].removeprefix("public."): tuple(t[name] for name in names) for t in tables}
    return {table: numbers for table, numbers in found.items() if any(numbers)}


def told(expected: Expected) -> dict[str, tuple[int, ...]]:
    return {t: (c.insert, c.update, c.delete, c.kept) for t, c in expected.counts.items() if c != Counts()}


def written(before: Snapshot, after: Snapshot) -> int:
    """Rows that lie elsewhere, or were written by another transaction, than before."""
    there = {(t, trial) for t, rows in before.places.items() for places in rows.values() for trial in places}
    here = {(t, trial) for t, rows in after.places.items() for places in rows.values() for trial in places}
    return len(here - there)


def restored_files(
    scope: Scope, mode: str, then: Mapping[str, bytes], now: Mapping[str, bytes], in_place: bool
) -> tuple[dict[str, bytes], dict[str, int]]:
    """The tenant's files after the restore, and what the plan must say of them. All changes are newer than the backup."""
    chosen = scope.files if in_place and scope.files else r"(?!)"
    old = {path: body for path, body in then.items() if re.fullmatch(chosen, path)}
    new = {path: body for path, body in now.items() if re.fullmatch(chosen, path)}
    missing = {path: body for path, body in old.items() if path not in new}
    different = {path: body for path, body in old.items() if path in new and new[path] != body}
    extra = set(new) - set(old)
    back = {**missing, **different} if mode == EXACT else missing
    counts = {
        "missing": len(missing),
        "different": len(different) if mode == EXACT else 0,
        "extra": len(extra),
        "kept": 0 if mode == EXACT else len(different) + len(extra),
        "bytes_to_write": sum(map(len, back.values())),
        "unchanged": len(old) - len(missing) - len(different),
    }
    gone = extra if mode == EXACT else set()
    return {path: body for path, body in {**now, **back}.items() if path not in gone}, counts


@contextmanager
def restore_trial(stack: Stack, directory: Path) -> Iterator[RestoreTrial]:
    """The application and its backup, and another database with its schema; for many tests, one after the other."""
    with fresh_database(stack) as database, fresh_database(stack) as other:
        sample = SampleApplication(Application(database, directory), database)
        sample.create(other)
        database.run(f"GRANT CREATE ON DATABASE {database.name} TO {postgres.BACKUP}")  # for new schemas
        backup = sample.service().create_backup(ACME, ADMIN)["id"]
        yield RestoreTrial(sample, other, backup, sample.snapshot())
