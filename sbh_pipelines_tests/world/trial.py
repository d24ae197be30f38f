"""A product in a database of its own, with the service over it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines_tests.support.application import Application
from sbh_pipelines_tests.support.own_server import VERSIONS, OwnServer, own_server
from sbh_pipelines_tests.world.atlas import ATLAS
from sbh_pipelines_tests.world.helpdesk import HELPDESK
from sbh_pipelines_tests.world.ledger import LEDGER
from sbh_pipelines_tests.world.observability import OBSERVABILITY
from sbh_pipelines_tests.world.product import Product
from sbh_pipelines_tests.world.scheduler import SCHEDULER
from sbh_pipelines_tests.world.suite import SUITE

PRODUCTS = {product.name: product for product in (HELPDESK, OBSERVABILITY, SCHEDULER, LEDGER, ATLAS, SUITE)}


@contextmanager
def server_of_products(version: int) -> Iterator[OwnServer]:
    """A server that has the products' extensions, where it can be told of them (18 and later)."""
    with tempfile.TemporaryDirectory(prefix="sbh-extensions-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server is somebody else's
        _write_extensions(folder)
        options = {"extension_control_path": f"'$system:{folder}'"} if version >= 18 else {}
        with own_server(version, **options) as made:
            made.database("postgres").run(f"ALTER ROLE {postgres.BACKUP} CREATEDB")
            yield made


def _write_extensions(folder: Path) -> None:
    for product in PRODUCTS.values():
        for name, script in product.extensions.items():
            (folder / "extension").mkdir(exist_ok=True)
            control = "default_version = '1.0'\nrelocatable = false\nschema = public\ntrusted = true\n"
            (folder / "extension" / f"{name}.control").write_text(control)
            (folder / "extension" / f"{name}--1.0.sql").write_text(script)


class Trial:
    """A product in a database, and the service over it."""

    def __init__(self, product: Product, server: OwnServer, directory: Path) -> None:
        self.product, self.server = product, server
        directory.mkdir()
        self.database = server.create_database(product.name)
        self.application = Application(self.database, directory)
        self._make()
        self.settings = self.application.configured(**self._sections())
        self.service = BackupService(self.settings)

    def _make(self) -> None:
        self.database.run(f"GRANT CREATE, TEMPORARY ON DATABASE {self.product.name} TO {postgres.BACKUP}")
        for name, script in self.product.extensions.items():
            # Before 18 an extension lies where the server is installed: there the tables are the application's own.
            made = f"CREATE EXTENSION {name}" if self.server.version >= 18 else _plain(script)
            self.database.run(made)
        self.database.run(self.product.schema)
        self.database.run(self.product.rows)

    def _sections(self) -> dict[str, dict[str, object]]:
        sections = {name: dict(values) for name, values in self.product.settings.items()}
        if self.product.extensions and self.server.version < 18:
            sections["database"]["shared"] = [*sections["database"].get("shared", []), "spatial_ref_sys"]
        programs = {name: str(VERSIONS[self.server.version] / name) for name in ("pg_dump", "psql")}
        return {**sections, "platform": programs, "restore": {"safety_backup": True}}

    @property
    def first(self) -> str:
        return self.product.slugs[0]

    def states(self) -> dict[str, object]:
        """Of the other tenants, and of everybody."""
        others = {slug: self.product.state(self.database, slug) for slug in self.product.slugs[1:]}
        return {**others, "*": self.product.common_state(self.database)}


def _plain(script: str) -> str:
    return "\n".join(line for line in script.splitlines() if "pg_extension_config_dump" not in line)


@contextmanager
def trial(name: str, server: OwnServer, directory: Path) -> Iterator[Trial]:
    made = Trial(PRODUCTS[name], server, directory)
    try:
        yield made
    finally:
        server.drop_database(name)
