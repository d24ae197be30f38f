"""The command line as tests call it: in this process, with what it printed and how it ended."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2
import pytest

from sbh_pipelines.cli import main
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on standard output; fails where there is more, or less."""
        return json.loads(self.out)

    @property
    def code(self) -> str:
        return str(self.document["error"]["code"])


Sbh = Callable[..., Ended]


@pytest.fixture
def sbh(capsys: pytest.CaptureFixture[str]) -> Sbh:
    """Runs `sbh` with these arguments."""

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        status = main(arguments)
        printed = capsys.readouterr()
        return Ended(status, printed.out, printed.err)

    return run


@contextmanager
def sql(stack: Stack, *before: str, after: str = "") -> Iterator[None]:
    """The sample's database changed for the length of a block, as its superuser."""

    def execute(*statements: str) -> None:
        with (
            closing(psycopg2.connect(stack.dsn(postgres.ADMIN))) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            for statement in statements:
                cursor.execute(statement)

    execute(*before)
    try:
        yield
    finally:
        if after:
            execute(after)


@pytest.fixture
def backed_up(sbh: Sbh, settings_file: object) -> str:
    """tenant-6, the smallest, has a backup; its id."""
    ended = sbh("backup", "create", "tenant-6", "--json")
    assert ended.status == 0, ended.err
    return str(ended.document["backups"][0]["id"])
