"""Random histories of an application whose changes are journaled: every backup is what the tables are, and restores.

The machine of `test_incremental_machine.py`, with open and prepared transactions, upheavals and alterations; and drains in between.
Some tables are journaled, some cannot be. Whatever the journal cannot tell is looked through.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import Phase
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from sbh_pipelines.backup.create.draft import Draft
from sbh_pipelines.backup.create.journaled import table_fold
from sbh_pipelines.backup.create.tenant_capture import LOOKED_THROUGH
from sbh_pipelines.errors import SbhError
from sbh_pipelines_tests.backup.create import test_incremental_machine as plain
from sbh_pipelines_tests.support.effort import SECONDS
from sbh_pipelines_tests.support.folding import JOURNAL, Folding
from sbh_pipelines_tests.support.incremental.machine import ALTERATIONS, SCHEMA, UPHEAVALS
from sbh_pipelines_tests.support.journal import logical_server
from sbh_pipelines_tests.support.own_server import OwnServer

EXAMPLES, STEPS = 4, 30
QUIET = 5  # backups before the tables themselves are changed
# tokens keeps a key that can be deferred, and logs has none: these, and likes, are never journaled.
IDENTITIES = """
ALTER TABLE grid DROP CONSTRAINT grid_pkey, ADD PRIMARY KEY (n, name);
ALTER TABLE labels DROP CONSTRAINT labels_pkey, ADD PRIMARY KEY (label);
ALTER TABLE docs ALTER tenant_id SET DEFAULT 1, REPLICA IDENTITY FULL;
ALTER TABLE grid ALTER tenant_id SET NOT NULL;
CREATE UNIQUE INDEX grid_whose ON grid (tenant_id, n, name); ALTER TABLE grid REPLICA IDENTITY USING INDEX grid_whose;
ALTER TABLE labels REPLICA IDENTITY FULL; ALTER TABLE tasks REPLICA IDENTITY FULL; ALTER TABLE remarks REPLICA IDENTITY FULL;
ALTER TABLE events_0 REPLICA IDENTITY FULL; ALTER TABLE events_1 REPLICA IDENTITY FULL; ALTER TABLE events_2 REPLICA IDENTITY FULL;
ALTER TABLE attic.spare REPLICA IDENTITY FULL;
ALTER TABLE docs ADD large text; ALTER TABLE grid ADD large text; ALTER TABLE remarks ADD large text;
UPDATE docs SET large = (SELECT string_agg(md5(id::text || g), '') FROM generate_series(1, 300) g) WHERE id % 5 = 0;
UPDATE grid SET large = (SELECT string_agg(md5(n::text || name || g), '') FROM generate_series(1, 300) g) WHERE n % 5 = 0;
UPDATE remarks SET large = (SELECT string_agg(md5(id::text || g), '') FROM generate_series(1, 300) g) WHERE left(id::text, 1) < '4';
"""
EXPECTED = ("full", "incremental", "unchanged", "tables folded", "tables looked through", "restores", "drained")


class Machine(plain.Machine):
    """`server` is set by the test."""

    seen: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    hours = 0

    def __init__(self) -> None:
        super().__init__()
        sections = {name: getattr(self.changing.settings, name) for name in ("database", "retention", "prune")}
        journaled = self.changing.settings.model_copy(
            update={"journal": type(self.changing.settings.journal)(**JOURNAL)}
        )
        assert sections["database"] == journaled.database
        self.changing.settings = journaled
        self.folding = Folding(self.changing.database, self.directory, journaled)
        self.folding.drain()

    @precondition(lambda self: self.backups)
    @rule()
    def drain(self) -> None:
        with suppress(SbhError):  # a slot is not made while transactions run
            self.folding.drain()
            self.seen["drained"] += 1

    def _back_up(self, tenants: list[int], kind: str) -> None:
        super()._back_up(tenants, kind)
        if self.changing.sessions or self.changing.prepared or kind == "full":
            return
        self.drain()

    def _count(self, draft: Draft) -> None:
        super()._count(draft)
        self.folding.check(draft)
        self.seen["tables looked through"] += sum(LOOKED_THROUGH in why for why in draft.reread.values())
        self.hours += 1
        for table, why in draft.reread.items():
            self.reasons[f"{table} {why}"] += 1

    @precondition(lambda self: self.hours > QUIET)
    @rule(name=st.sampled_from(sorted(UPHEAVALS)), number=plain.NUMBER)
    def upheaval(self, name: str, number: int) -> None:
        super().upheaval(name, number)

    @precondition(lambda self: self.hours > QUIET)
    @rule(name=st.sampled_from(sorted(ALTERATIONS)), table=plain.ALTERED)
    def alter(self, name: str, table: str) -> None:
        super().alter(name, table)

    @precondition(lambda self: self.backups)
    @rule(nth=plain.NUMBER)
    def restore(self, nth: int) -> None:
        if nth % 4 == 0 and any(b.version == self.changing.version for b in self.backups):
            super().restore(nth)

    def teardown(self) -> None:
        with suppress(AttributeError):
            self._settle()
            self.folding.drop_slot()
        super().teardown()


@pytest.fixture(scope="module", params=[18, 15], ids=["PostgreSQL 18", "PostgreSQL 15"])
def server(request: pytest.FixtureRequest) -> Iterator[OwnServer]:
    with logical_server(request.param) as made:
        made.create_database(plain.TEMPLATE).run(SCHEMA, IDENTITIES)
        yield made


@pytest.mark.soak
def test_every_backup_by_the_journal_is_what_the_tables_are(server: OwnServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, sums and hashes as those of a scan, whichever tables were folded; and all that remains restores."""
    folded = table_fold.capture_folds
    seen = Machine.seen

    def counted(connection: Any, table: Any, code: Any, folds: Any) -> None:
        folded(connection, table, code, folds)
        seen["tables folded"] += sum(fold.summary is not None for fold in folds)
        seen["tables folded in vain"] += sum(fold.again is not None for fold in folds)

    monkeypatch.setattr("sbh_pipelines.backup.create.snapshot_step.capture_folds", counted)
    monkeypatch.setattr(plain, "Machine", Machine)
    seen.clear()
    if not SECONDS:
        plain._run(
            server, EXAMPLES if server.version == 18 else 1, STEPS, seed=plain.FIRST_SEED, phases=[Phase.generate]
        )

        assert server.version == 15 or all(seen[one] for one in EXPECTED), seen
        return
    deadline, current = time.monotonic() + SECONDS, plain.FIRST_SEED
    while time.monotonic() < deadline:
        try:
            plain._run(server, 3, 40, seed=current, phases=[Phase.generate])
        except BaseException as error:
            error.add_note(f"TEST_MACHINE_SEED={current}")
            raise
        current += 1
    print(f"seeds {plain.FIRST_SEED} to {current - 1}: {dict(seen)}")
