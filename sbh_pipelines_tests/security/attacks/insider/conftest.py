"""A small application, backed up from outside of what is attacked."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.support.application import Application
from sbh_pipelines_tests.support.databases import fresh_database


@pytest.fixture
def application(embedded_stack: Stack, application_template: str, tmp_path: Path) -> Iterator[Application]:
    with fresh_database(embedded_stack, application_template) as database:
        made = Application(database, tmp_path)
        made.create_files()
        yield made
