"""Alerts, sent to real servers."""

import logging
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from moto.server import ThreadedMotoServer
from pydantic import SecretStr

from sbh_pipelines.errors import AlertError
from sbh_pipelines.orchestration.alerting.alert import Alert
from sbh_pipelines.orchestration.alerting.channels.channel import Channel
from sbh_pipelines.orchestration.alerting.channels.delivery import raise_undelivered, try_all
from sbh_pipelines.orchestration.alerting.channels.registry import configured_channels
from sbh_pipelines.orchestration.common.failed_tenants import FailedTenant
from sbh_pipelines.settings import AlertSettings
from sbh_pipelines_tests.support.sinks import smtp, webhook

RECORD = {
    "tenant": "tenant-2", "step": "begin", "code": "SBH-120", "what": "Region not allowed", "on": "tenant-2",
    "why": "mars-1", "remedy": "correct it", "transient": False,
}  # fmt: skip
ALERT = Alert(
    "full_backup_job failed: tenant-2",
    "1 of 3 tenants",
    "full_backup_job",
    "run-1",
    "2026-01-02T03:04:05Z",
    (FailedTenant.from_dict(RECORD),),
    3,
)
TOKEN = "T0KEN-that-must-not-show"
PASSWORD = "p4ss-that-must-not-show"


def send_all(alert: Alert, through: Sequence[Channel], pause_s: float = 0.0) -> None:
    raise_undelivered(try_all(alert, through, pause_s), f"run {alert.run_id}")


def send(pause_s: float = 0.0, **settings: Any) -> None:
    send_all(ALERT, configured_channels(AlertSettings(**settings)), pause_s)


def test_a_webhook_gets_json_that_names_the_tenants() -> None:
    with webhook() as sink:
        send(webhook_url=f"http://127.0.0.1:{sink.port}/hook?token={TOKEN}")
    (body,) = sink.bodies
    assert (body["event"], body["run_id"], body["tenants"], body["tenants_failed"]) == ("run_failed", "run-1", 3, 1)
    assert body["failed_tenants"] == [RECORD]
    assert "tenant-2: [SBH-120] Region not allowed: mars-1. To mend it: correct it" in body["text"]


def test_the_address_may_come_from_a_file(tmp_path: Path) -> None:
    with webhook() as sink:
        (tmp_path / "url").write_text(f"http://127.0.0.1:{sink.port}/from-file\n")
        send(webhook_url_file=tmp_path / "url")
    assert sink.paths == ["/from-file"]


def test_a_channel_that_fails_stops_no_other_and_is_named_without_its_secret(caplog: pytest.LogCaptureFixture) -> None:
    """The webhook answers 500 each of three times; the mail goes out all the same."""
    with webhook() as sink, smtp() as mail, caplog.at_level(logging.DEBUG):
        sink.status = 500
        with pytest.raises(AlertError) as caught:
            send(
                webhook_url=f"http://127.0.0.1:{sink.port}/{TOKEN}",
                smtp_host="127.0.0.1", smtp_port=mail.port, smtp_starttls=False, mail_to=["ops@example.com"],
            )  # fmt: skip
    assert len(sink.bodies) == 3
    assert len(mail.messages) == 1
    assert "webhook: HTTP status 500" in str(caught.value)
    assert TOKEN not in str(caught.value) + caplog.text


@pytest.mark.parametrize("address", [f"http://127.0.0.1:1/{TOKEN}", f"file:///{TOKEN}", f"http://no such host/{TOKEN}"])
def test_a_webhook_that_cannot_be_reached_shows_no_secret(address: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(AlertError) as caught, caplog.at_level(logging.DEBUG):
        send(webhook_url=address)
    assert TOKEN not in repr(caught.value) + str(caught.value) + caplog.text


def test_mail_goes_encrypted_and_signed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with smtp(certificate(tmp_path, monkeypatch)) as mail:
        send(
            smtp_host="127.0.0.1", smtp_port=mail.port, smtp_user="ops", smtp_password=PASSWORD,
            mail_from="sbh@example.com", mail_to=["a@example.com", "b@example.com"],
        )  # fmt: skip
    assert "Subject: full_backup_job failed: tenant-2" in mail.messages[0]
    assert "tenant-2: [SBH-120]" in mail.messages[0]
    assert any(command.startswith("TLS AUTH") for command in mail.commands)
    assert sum("RCPT TO" in command.upper() for command in mail.commands) == 2


def test_no_password_is_sent_where_encryption_is_not_offered(caplog: pytest.LogCaptureFixture) -> None:
    with smtp() as mail, pytest.raises(AlertError) as caught:
        send(smtp_host="127.0.0.1", smtp_port=mail.port, smtp_user="ops", smtp_password=PASSWORD, mail_to=["a@b.c"])
    assert mail.messages == []
    assert not any("AUTH" in command for command in mail.commands)
    assert PASSWORD not in str(caught.value) + caplog.text


def test_a_certificate_that_is_not_trusted_is_refused(tmp_path: Path) -> None:
    with smtp(certificate(tmp_path, None)) as mail, pytest.raises(AlertError, match="SSLCertVerificationError"):
        send(smtp_host="127.0.0.1", smtp_port=mail.port, mail_to=["a@b.c"])
    assert mail.messages == []


@pytest.fixture
def moto(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


def test_sns_delivers_to_the_subscribers_of_the_topic(moto: str) -> None:
    def client(service: str) -> Any:
        return boto3.client(service, region_name="eu-west-1", endpoint_url=moto)

    topic = client("sns").create_topic(Name="alerts")["TopicArn"]
    queue = client("sqs").create_queue(QueueName="ops")["QueueUrl"]
    arn = client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    send(sns_topic_arn=topic, sns_endpoint_url=moto)
    (message,) = client("sqs").receive_message(QueueUrl=queue)["Messages"]
    assert "tenant-2: [SBH-120] Region not allowed" in message["Body"]
    assert "full_backup_job failed: tenant-2" in message["Body"]


def test_a_topic_that_is_gone_is_an_error(moto: str) -> None:
    with pytest.raises(AlertError, match="SNS: NotFoundException"):
        send(sns_topic_arn="arn:aws:sns:eu-west-1:123456789012:gone", sns_endpoint_url=moto)


def test_the_log_is_always_a_channel(caplog: pytest.LogCaptureFixture) -> None:
    send()
    assert "tenant-2: [SBH-120] Region not allowed" in caplog.text


def test_a_repr_of_the_settings_shows_no_secret() -> None:
    assert TOKEN not in repr(AlertSettings(webhook_url=SecretStr(TOKEN)))


def pagerduty(port: int) -> dict[str, Any]:
    return {"pagerduty_key": TOKEN, "pagerduty_endpoint_url": f"http://127.0.0.1:{port}/v2/enqueue"}


LINKED = replace(
    ALERT, link="https://dagster.example.com/runs/run-1", remedy="look at it", key="backup_failed.full/acme"
)


def test_slack_gets_blocks_with_what_to_do_and_a_link() -> None:
    """Names that would address everybody, or become a link, are escaped; no block is longer than Slack takes."""
    hostile = replace(LINKED, message="<!channel> " + "x" * 5000, subject="a & b <http://x|y> " + "z" * 300)
    with webhook() as sink:
        send_all(
            hostile, configured_channels(AlertSettings(slack_url=SecretStr(f"http://127.0.0.1:{sink.port}/{TOKEN}")))
        )
    (body,) = sink.bodies
    kinds = [block["type"] for block in body["blocks"]]
    assert kinds == ["header", "section", "section", "context", "actions"]
    assert "<!channel>" not in str(body["blocks"][1])
    assert "&lt;!channel&gt;" in body["blocks"][1]["text"]["text"]
    assert len(body["blocks"][0]["text"]["text"]) <= 150
    assert all(len(b["text"]["text"]) <= 3000 for b in body["blocks"] if b["type"] == "section")
    assert "look at it" in body["blocks"][2]["text"]["text"]
    assert body["blocks"][4]["elements"][0]["url"] == LINKED.link
    assert sink.paths == [f"/{TOKEN}"]


def test_slack_takes_a_recovery_in_green() -> None:
    with webhook() as sink:
        recovered = replace(LINKED, state="recovered")
        send_all(recovered, configured_channels(AlertSettings(slack_url=SecretStr(f"http://127.0.0.1:{sink.port}/"))))
    (body,) = sink.bodies
    assert body["text"].startswith("Recovered: ")
    assert ":white_check_mark:" in str(body["blocks"][1])
    assert "What to do next" not in str(body)


def test_pagerduty_gets_an_incident_and_its_end_under_one_key() -> None:
    with webhook() as sink:
        through = configured_channels(AlertSettings(**pagerduty(sink.port)))
        send_all(replace(LINKED, severity="critical"), through)
        send_all(replace(LINKED, severity="critical", state="recovered"), through)
    begun, over = sink.bodies
    assert (begun["event_action"], over["event_action"]) == ("trigger", "resolve")
    assert begun["dedup_key"] == over["dedup_key"] == "backup_failed.full/acme"
    assert begun["payload"]["severity"] == "critical"
    assert begun["payload"]["summary"] == ALERT.subject
    assert begun["payload"]["custom_details"]["what_to_do_next"] == "look at it"
    assert begun["links"][0]["href"] == LINKED.link
    assert begun["routing_key"] == TOKEN
    assert "payload" not in over


def test_long_keys_stay_apart_and_within_what_pagerduty_takes() -> None:
    with webhook() as sink:
        through = configured_channels(AlertSettings(**pagerduty(sink.port)))
        for end in "ab":
            send_all(replace(LINKED, key="rpo_missed/" + "t" * 300 + end), through)
    keys = [body["dedup_key"] for body in sink.bodies]
    assert len(set(keys)) == 2
    assert max(map(len, keys)) <= 255


def test_severity_decides_who_is_told() -> None:
    """PagerDuty wants errors; the webhook only what is critical, as set; the log all."""
    with webhook() as pages, webhook() as hook:
        settings = AlertSettings(
            **pagerduty(pages.port),
            webhook_url=SecretStr(f"http://127.0.0.1:{hook.port}/"),
            least_severity={"webhook": "critical", "pagerduty": "error"},
        )
        for severity in ("warning", "error", "critical"):
            send_all(replace(LINKED, severity=severity), configured_channels(settings))
    assert [body["payload"]["severity"] for body in pages.bodies] == ["error", "critical"]
    assert [body["severity"] for body in hook.bodies] == ["critical"]


def test_a_key_that_pagerduty_refuses_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    with webhook() as sink, caplog.at_level(logging.DEBUG):
        sink.status = 400
        outcome = try_all(LINKED, configured_channels(AlertSettings(**pagerduty(sink.port))), 0.0)
    assert outcome == {"log": None, "PagerDuty": "HTTP status 400"}
    assert TOKEN not in caplog.text + repr(AlertSettings(**pagerduty(1)))


def test_nothing_is_sent_on_to_where_a_redirect_points() -> None:
    with webhook() as first, webhook() as second:
        first.status, first.location = 307, f"http://127.0.0.1:{second.port}/"
        settings = AlertSettings(webhook_url=SecretStr(f"http://127.0.0.1:{first.port}/"))
        assert try_all(ALERT, configured_channels(settings), 0.0)["webhook"] == "HTTP status 307"
    assert second.bodies == []


def test_each_address_of_apprise_is_a_channel_and_none_is_shown(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """One takes the alert and its end, one is down, one sends elsewhere, one is no address."""
    with webhook() as good, webhook() as down, webhook() as elsewhere, caplog.at_level(logging.DEBUG):
        down.status, elsewhere.status = 500, 307
        elsewhere.location = f"http://127.0.0.1:{good.port}/stolen"
        ports = (good.port, down.port, elsewhere.port)
        listed = [f"json://127.0.0.1:{port}/{TOKEN}" for port in ports] + [f"nosuch://{TOKEN}"]
        (tmp_path / "addresses").write_text("\n".join(listed), "utf-8")
        for settings in (
            AlertSettings.model_validate({"apprise_urls": listed}),
            AlertSettings(apprise_urls_file=tmp_path / "addresses", least_severity={"apprise": "warning"}),
        ):
            good.bodies.clear()
            outcome = try_all(replace(LINKED, message="@everyone :smile:"), configured_channels(settings), 0.0)
            assert [name for name, why in outcome.items() if why is None] == ["log", "apprise 1 (json)"]
            assert "A service did not take" in str(outcome["apprise 2 (json)"])
            assert "A service did not take" in str(outcome["apprise 3 (json)"])
            assert "no such service" in str(outcome["apprise 4 (nosuch)"])
            assert (good.bodies[0]["title"], good.bodies[0]["type"]) == (ALERT.subject, "failure")
            assert "@everyone :smile:" in good.bodies[0]["message"]
            assert LINKED.link in good.bodies[0]["message"]
            try_all(replace(LINKED, state="recovered"), configured_channels(settings)[:2], 0.0)
            assert good.bodies[1]["type"] == "success"
            assert TOKEN not in caplog.text + str(outcome) + repr(settings) + repr(configured_channels(settings))
        assert set(good.paths) == {f"/{TOKEN}"}
        try_all(replace(LINKED, severity="info"), configured_channels(settings), 0.0)
        assert len(good.bodies) == 2


def test_addresses_of_apprise_that_cannot_be_read_keep_no_other_channel(tmp_path: Path) -> None:
    outcome = try_all(ALERT, configured_channels(AlertSettings(apprise_urls_file=tmp_path / "none")), 0.0)
    assert outcome["log"] is None
    assert "Cannot read a secret's file" in str(outcome["apprise"])


def test_an_alert_survives_being_stored() -> None:
    assert Alert.from_dict(LINKED.as_dict()) == LINKED


def certificate(folder: Path, trusting: pytest.MonkeyPatch | None) -> ssl.SSLContext:
    """A server's certificate for 127.0.0.1; `trusting` makes this process trust it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sink")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "sink.pem").write_bytes(private + made.public_bytes(pem))
    if trusting:
        trusting.setenv("SSL_CERT_FILE", str(folder / "sink.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "sink.pem")
    return context
