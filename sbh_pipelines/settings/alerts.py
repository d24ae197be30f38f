"""Who is told when something is wrong, through which channel, and how often."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator

from sbh_pipelines.settings.section import Section

Severity = Literal["info", "warning", "error", "critical"]
ChannelName = Literal["webhook", "slack", "mail", "sns", "pagerduty", "apprise"]


class AlertSettings(Section):
    """Who is told when something is wrong. Any number of channels; the log is always one of them."""

    webhook_url: SecretStr | None = Field(
        None, description="Gets a JSON POST per alert (a secret: it may hold a token)."
    )
    webhook_url_file: Path | None = None
    webhook_url_secret: str | None = None
    slack_url: SecretStr | None = Field(None, description="An incoming webhook of Slack (a secret).")
    slack_url_file: Path | None = None
    slack_url_secret: str | None = None
    pagerduty_key: SecretStr | None = Field(
        None, description="Integration (routing) key of a service that takes PagerDuty's Events API v2 (a secret)."
    )
    pagerduty_key_file: Path | None = None
    pagerduty_key_secret: str | None = None
    pagerduty_endpoint_url: str = Field(
        "https://events.pagerduty.com/v2/enqueue", description="Where PagerDuty takes events."
    )
    sns_topic_arn: str | None = None
    sns_endpoint_url: str | None = None
    smtp_host: str | None = None
    smtp_port: int = 587
    smtp_starttls: bool = True
    smtp_user: str | None = None
    smtp_password: SecretStr | None = None
    smtp_password_file: Path | None = None
    smtp_password_secret: str | None = None
    mail_from: str = "sbh-pipelines@localhost"
    mail_to: list[str] = Field([])
    apprise_urls: SecretStr | None = Field(
        None,
        description="Addresses of services as the library apprise writes them (a secret: they hold tokens), a list, or one text"
        " with spaces or lines between them. Each is a channel of its own. Needs the extra `alerts`.",
        examples=["msteams://…", "tgram://… discord://…"],
    )
    apprise_urls_file: Path | None = None
    apprise_urls_secret: str | None = None
    least_severity: dict[ChannelName, Severity] = Field(
        {"pagerduty": "error"},
        description="By channel, the least severity it is sent: info, warning, error or critical. A channel that is not"
        " named gets all. A recovery goes where the alert went.",
    )
    remind_hours: float = Field(
        24.0, gt=0, description="What is still wrong is told again after so many hours, unless it has become worse."
    )
    together: int = Field(
        5,
        ge=1,
        description="More than so many tenants with the same trouble at once are told in one alert, and their recovery in"
        " one.",
    )
    digest: str = Field(
        "",
        description="Cron line, in `schedules.time_zone`, of a digest: how many tenants are as promised, what was made in the last"
        " day, and what is wrong, also if nothing is. It has the severity info. Empty: none.",
        examples=["0 7 * * 1-5"],
    )
    dagster_url: str | None = Field(
        None,
        description="Address of Dagster's web pages, e.g. https://dagster.example.com: alerts then link to the run.",
    )
    run_over_time_s: float = Field(
        4 * 3600.0, gt=0, description="A run at work for longer than this is told about although nothing failed, s."
    )
    run_silent_s: float = Field(
        3600.0, gt=0, description="A run at work that has recorded nothing for longer than this is told about, s."
    )

    @field_validator("apprise_urls", mode="before")
    @classmethod
    def _one_text(cls, value: object) -> object:
        """A list of addresses is one text to whoever reads secrets."""
        listed = isinstance(value, list) and all(isinstance(address, str) for address in value)
        return "\n".join(value) if listed and isinstance(value, list) else value
