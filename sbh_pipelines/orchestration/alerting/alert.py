"""An alert: what people are told, in the words that every channel shows. Knows nothing of Dagster, and sends nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from sbh_pipelines.document import as_document
from sbh_pipelines.orchestration.common.failed_tenants import FailedTenant
from sbh_pipelines.settings.alerts import Severity

TENANTS_SENT = 50  # SNS takes 256 KiB
RECOVERED, TEST = "recovered", "test"


@dataclass(frozen=True, slots=True)
class Alert:
    """What people are told.

    Attributes:
        subject: what is wrong, in one line.
        message: what happened, in sentences.
        job: the job, asset or sensor that it comes from.
        run_id: the run; empty where none is meant.
        at: when it was made, UTC.
        failed_tenants: the tenants that failed, and why.
        tenants: how many tenants it concerns.
        event: kind of the event, such as run_failed or rpo_missed.
        backup_type: types of the backups that the run makes; empty where it makes none.
        severity: info, warning, error or critical.
        state: new, worse, still, recovered or test.
        key: names what is wrong; equal from the first alert to the recovery.
        remedy: what to do next.
        link: address of the run in Dagster's web pages.
        since: since when it is so, UTC.
        site: the site that it is of; empty where that has no name.
    """

    subject: str
    message: str
    job: str
    run_id: str
    at: str
    failed_tenants: tuple[FailedTenant, ...] = ()
    tenants: int = 0
    event: str = "run_failed"
    backup_type: str = ""
    severity: Severity = "error"
    state: str = "new"
    key: str = ""
    remedy: str = ""
    link: str = ""
    since: str = ""
    site: str = ""

    @property
    def title(self) -> str:
        """The subject, of which site, and what has become of it."""
        words = {RECOVERED: "Recovered: ", "still": "Still: ", "worse": "Worse: ", TEST: "Test: "}
        return words.get(self.state, "") + (f"{self.site}: " if self.site else "") + self.subject

    @property
    def dedup_key(self) -> str:
        """The same from the first alert to the recovery, and another one for each site."""
        key = self.key or f"{self.event}/{self.run_id or self.job}"
        return f"{self.site}/{key}" if self.site else key

    def as_dict(self) -> dict[str, object]:
        """JSON-ready; `text` is what chat systems show. At most 50 failed tenants, `tenants_failed` counts them all."""
        sent = replace(self, failed_tenants=self.failed_tenants[:TENANTS_SENT])
        return {"text": self.text(), **as_document(sent), "tenants_failed": len(self.failed_tenants)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Of `as_dict`, for one that waits to be sent again. Raises KeyError, TypeError."""
        fields = {name: document[name] for name in cls.__slots__ if name in document}
        failed = tuple(FailedTenant.from_dict(record) for record in document.get("failed_tenants", ()))
        return cls(**{**fields, "failed_tenants": failed})

    def text(self) -> str:
        source = f"job {self.job}, run {self.run_id}, {self.at}" if self.run_id else f"{self.job}, {self.at}"
        lines = [self.title, "", *([self.message, ""] if self.message else [])]
        if self.remedy and self.state != RECOVERED:
            lines += [f"What to do next: {self.remedy}", ""]
        lines.append(f"{self.severity}; {source}" + (f"; since {self.since}" if self.since else ""))
        if self.link:
            lines.append(self.link)
        for record in self.failed_tenants[:TENANTS_SENT]:
            why = f": {record.why}" if record.why else ""
            remedy = f". To mend it: {record.remedy}" if record.remedy else ""
            lines.append(f"- {record.tenant}: [{record.code}] {record.what}{why}{remedy}")
        if len(self.failed_tenants) > TENANTS_SENT:
            lines.append(f"… and {len(self.failed_tenants) - TENANTS_SENT} more tenants")
        return "\n".join(lines)
