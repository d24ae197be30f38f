"""The blocks of commands in docs/operations.md, docs/access.md and docs/api.md are run, line by line, as an operator types them.

Names, ids and times of the pages are examples; `EXAMPLES` says what stands for them here.
"""

import os
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psycopg2
import pytest

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.sample import data as sample
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack, running
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.security.tokens import open_tokens
from sbh_pipelines.settings import load_settings
from sbh_pipelines_tests.cli.commands.test_pages import ROOT, bare, blocks
from sbh_pipelines_tests.support.runbook import Shell
from sbh_pipelines_tests.support.servers import free_port, started, until

TENANT = "tenant-1"
ADMIN = UserContext("fixture", "*", Role.ADMIN)
# By how their first line begins: what cannot be run here, and where it is instead.
ELSEWHERE = {
    "sbh settings init": "test_pages.py, by the README",
    "DAGSTER_HOME=": "orchestration/guarded_ui/test_server.py",
    "export DAGSTER_HOME=": "orchestration/guarded_ui/test_server.py",
    "sbh copies status": "test_copies.py, with a copy",
    "sbh copies forget": "backup/copies, with a copy",
    "sbh copies verify": "test_copies.py",
    "aws s3api": "needs AWS's program",
    "sbh copies promote": "test_region_lost.py, by its runbook",
}


@dataclass
class Operator:
    """A site of two tenants, and what an operator there has seen so far."""

    stack: Stack
    shell: Shell
    directory: Path
    moment: str = ""
    xid: str = ""
    lsn: str = ""
    printed: str = ""

    @property
    def service(self) -> BackupService:
        return BackupService(load_settings(self.stack.settings))

    def change(self, statement: str) -> None:
        with closing(psycopg2.connect(self.stack.dsn(postgres.ADMIN))) as connection:
            with connection, connection.cursor() as cursor:
                cursor.execute(statement)
                cursor.execute("SELECT pg_current_xact_id()::text::bigint")
                self.xid = f"{cursor.fetchone()[0]}"
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT pg_current_wal_insert_lsn()")
                self.lsn = cursor.fetchone()[0]

    def damage(self) -> None:
        """The moment before it, its transaction, and the place in the log after it."""
        self.change("UPDATE tasks SET title = 'good' WHERE tenant_id = 1")
        time.sleep(1.1)  # a moment is named by the second
        self.moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
        time.sleep(1.1)
        self.change("UPDATE tasks SET title = 'ruined' WHERE tenant_id = 1")

    def droppable(self) -> str:
        """A backup that may be forgotten: neither the newest nor the last full one."""
        made = [str(self.service.create_backup(TENANT, ADMIN)["id"]) for _ in range(2)]
        return made[0]

    def newest(self) -> str:
        return str(next(one.id for one in self.service.backups.of(TENANT, ADMIN) if not one.purpose))

    def restore(self) -> str:
        return self.found(r"restore_\d{8}_\d{6}_[0-9a-f]{6}")

    def hold(self) -> str:
        return self.found(r"legal-\S+")

    def approval(self) -> str:
        return self.found(r"approval_\d{8}_\d{6}_[0-9a-f]{6}")

    def found(self, pattern: str) -> str:
        """What was printed last of this kind."""
        return re.findall(pattern, self.printed)[-1]

    def token(self, user: str) -> str:
        return open_tokens(load_settings(self.stack.settings)).issue(user, "*", Role.ADMIN, 3600)

    def type(self, line: str, user: str = "") -> None:
        """Raises AssertionError where it does not end well."""
        environment = bare(SBH_SETTINGS=str(self.stack.settings), CALLED=os.devnull)
        environment["PATH"] = f"{self.shell.directory}:{environment['PATH']}"
        if user:
            environment["SBH_TOKEN"] = self.token(user)
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=self.directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, f"{line}\n{ended.stdout}"
        self.printed += ended.stdout


Value = str | Callable[[Operator], str]
# What stands for an example of the pages, in this order.
EXAMPLES: dict[str, Value] = {
    "acme": TENANT,
    "orders,items": "tasks,comments",
    "orders": "tasks",
    "@2026-01-15T14:32:07": lambda it: f"@{it.moment}",
    "--at 2026-01-15T14:32:07": lambda it: f"--at {it.moment}",
    "@2026-01-15T11:40": lambda it: f"@{it.moment}",
    "@xid:812345": lambda it: f"@xid:{it.xid}",
    "16/B374D848": lambda it: it.lsn,
    "--backup backup_20260115_0200": lambda it: f"--backup {it.droppable()}",
    "backup_20260115_0200": Operator.newest,
    "legal-tenant-0badcafe": Operator.hold,
    "restore_20260115_121502_84de0e": Operator.restore,
    "/secure/tenant-1": "out",
    "/etc/sbh/": "",
    "run BACKUP": lambda it: f"run {it.newest()}",
    " ID ": lambda it: f" {it.approval()} ",
    "--approval ID": lambda it: f"--approval {it.approval()}",
}
# Who types it, where it takes two persons.
USERS = {"sbh restore request": "ann", "sbh approvals approve": "bea"}


def lines(text: str) -> list[str]:
    """The commands of a block, without their comments."""
    return [
        plain for line in text.replace("\\\n", " ").splitlines() if (plain := re.sub(r"(^|\s+)#.*$", "", line).rstrip())
    ]


def shown(page: str) -> list[list[str]]:
    """The blocks of a page that have commands of `sbh`, or for AWS, which nothing else runs."""
    found = [
        lines(text) for language, text in blocks((ROOT / "docs" / page).read_text("utf-8")) if language in ("", "sh")
    ]
    return [block for block in found if any(re.match(r"([A-Z_]+=\S+ )*(sbh|aws) ", line) for line in block)]


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    with (
        running(tmp_path_factory.mktemp("operator"), fsync=False, kms=False) as stack,
        tempfile.TemporaryDirectory(prefix="sbh-shell-") as place,
    ):
        sample.generate(stack, tenants=2, rows=700, files=12, seed=5)
        BackupService(load_settings(stack.settings)).backups.create_all([TENANT], ADMIN, "full")
        with Shell.opened(stack, Path(place)) as shell:
            yield Operator(stack, shell, tmp_path_factory.mktemp("here"))


@pytest.mark.parametrize("page", ["operations.md", "access.md"])
def test_what_the_page_shows_can_be_typed(operator: Operator, page: str) -> None:
    """In the order of the page. What is not run is named, with its reason, and is on the page."""
    typed = 0
    for block in shown(page):
        if block[0].startswith(tuple(ELSEWHERE)):
            continue
        for line in block:
            if line.startswith(("sbh journal show", "sbh restore diff @2026-01-15T11:40")):
                operator.damage()
            command = line
            for example, value in EXAMPLES.items():
                if example in command:
                    command = command.replace(example, value if isinstance(value, str) else value(operator))
            if command.startswith("sbh token inspect"):
                (operator.directory / "token").write_text(operator.token("ann"))
            operator.type(command, next((user for start, user in USERS.items() if line.startswith(start)), ""))
            typed += 1
    assert typed > 5


def test_what_is_not_run_is_on_a_page() -> None:
    first = [block[0] for page in ("operations.md", "access.md") for block in shown(page)]
    assert [start for start in ELSEWHERE if not any(line.startswith(start) for line in first)] == []


def test_the_first_call_of_the_api(operator: Operator) -> None:
    """The block at the beginning of docs/api.md, with a port of this test's own; what `curl` would be told."""
    ((_, text),) = [one for one in blocks((ROOT / "docs" / "api.md").read_text("utf-8")) if one[0] == "bash"]
    key, token, serve, curl = lines(text)
    operator.type(key)
    operator.type(f'{token}; printf %s "$TOKEN" > token')
    port = free_port()
    environment = bare(SBH_SETTINGS=str(operator.stack.settings), SBH_API__PORT=str(port))
    with started(["bash", "-c", f"exec env {serve}"], environment, operator.directory / "log"):
        address = shlex.split(curl)[-1].replace(":8400", f":{port}")
        headers = {"Authorization": f"Bearer {(operator.directory / 'token').read_text()}"}

        def answer() -> httpx.Response | None:
            try:
                return httpx.get(address, headers=headers, timeout=60, trust_env=False)
            except httpx.HTTPError:
                return None

        told = until(answer)
        assert (told.status_code, [one["tenant_id"] for one in told.json()["backups"]][:1]) == (200, [TENANT])
