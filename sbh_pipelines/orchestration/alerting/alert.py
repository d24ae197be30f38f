"""An alert: what people are told, in the words that every channel shows. Knows nothing of Dagster, and sends nothing."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from sbh_pipelines.settings.alerts import Severity

TENANTS_SENT = 50  # SNS takes 256 KiB
RECOVERED, TEST = "recovered", "test"


@dataclass(frozen=True, slots=True)
class Alert:
    """What happened. `failed_tenants` are records with tenant, step, code, what, on, why, remedy, transient.

    `key` is the same from the first alert to the recovery; `state` is new, worse, still, recovered or test.
    """

    subject: str
    message: str
    job: str
    run_id: str
    at: str
    failed_tenants: tuple[Mapping[str, Any], ...] = ()
    tenants: int = 0
    event: str = "run_failed"
    backup_type: str = ""  # of the backups that the run makes; empty where it makes none
    severity: Severity = "error"
    state: str = "new"
    key: str = ""
    remedy: str = ""
    link: str = ""
    since: str = ""

    @property
    def title(self) -> str:
        """The subject, and what has become of it."""
        words = {RECOVERED: "Recovered: ", "still": "Still: ", "worse": "Worse: ", TEST: "Test: "}
        return words.get(self.state, "") + self.subject

    @property
    def dedup_key(self) -> str:
        return self.key or f"{self.event}/{self.run_id or self.job}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; `text` is what chat systems show. At most 50 failed tenants, `tenants_failed` counts them all."""
        sent = [dict(record) for record in self.failed_tenants[:TENANTS_SENT]]
        return {
            "text": self.text(),
            **asdict(self),
            "failed_tenants": sent,
            "tenants_failed": len(self.failed_tenants),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Of `as_dict`, for one that waits to be sent again. Raises KeyError, TypeError."""
        fields = {name: document[name] for name in cls.__slots__ if name in document}
        return cls(**{**fields, "failed_tenants": tuple(document.get("failed_tenants", ()))})

    def text(self) -> str:
        source = f"job {self.job}, run {self.run_id}, {self.at}" if self.run_id else f"{self.job}, {self.at}"
        lines = [self.title, "", *([self.message, ""] if self.message else [])]
        if self.remedy and self.state != RECOVERED:
            lines += [f"What to do next: {self.remedy}", ""]
        lines.append(f"{self.severity}; {source}" + (f"; since {self.since}" if self.since else ""))
        if self.link:
            lines.append(self.link)
        for record in self.failed_tenants[:TENANTS_SENT]:
            why = f": {record['why']}" if record.get("why") else ""
            remedy = f". To mend it: {record['remedy']}" if record.get("remedy") else ""
            lines.append(f"- {record['tenant']}: [{record.get('code')}] {record.get('what')}{why}{remedy}")
        if len(self.failed_tenants) > TENANTS_SENT:
            lines.append(f"… and {len(self.failed_tenants) - TENANTS_SENT} more tenants")
        return "\n".join(lines)
