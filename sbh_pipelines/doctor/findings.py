"""What a check says, and the report of all of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from sbh_pipelines.database.schema.tenancy import TableStatus
from sbh_pipelines.errors import SbhError


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """`remedy` is the exact command, SQL or setting that mends it; empty where nothing needs mending."""

    level: Level
    area: str
    what: str
    detail: str = ""
    remedy: str = ""


@dataclass
class Report:
    """Findings in the order of the checks, and the status of every table of the database."""

    findings: list[Finding] = field(default_factory=list)
    tables: list[TableStatus] = field(default_factory=list)

    def ok(self, area: str, what: str, detail: str = "") -> None:
        self.findings.append(Finding(Level.OK, area, what, detail))

    def warn(self, area: str, what: str, detail: str = "", remedy: str = "") -> None:
        self.findings.append(Finding(Level.WARNING, area, what, detail, remedy))

    def fail(self, area: str, what: str, detail: str = "", remedy: str = "") -> None:
        self.findings.append(Finding(Level.ERROR, area, what, detail, remedy))

    @contextmanager
    def trying(self, area: str, *, level: Level = Level.ERROR) -> Iterator[None]:
        """An error inside becomes a finding: one thing broken must not hide the others."""
        try:
            yield
        except SbhError as error:
            detail = ": ".join(filter(None, (error.on, error.why)))
            self.findings.append(Finding(level, area, error.what, f"{detail} [{error.code}]", error.remedy))

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level is Level.ERROR]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level is Level.WARNING]

    def as_dict(self) -> dict[str, object]:
        return {
            "ok": not self.errors,
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "findings": [asdict(finding) for finding in self.findings],
            "tables": [asdict(status) for status in self.tables],
        }
