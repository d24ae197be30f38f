"""E-mail by SMTP, encrypted and signed in where the settings say so."""

import smtplib
import ssl
from email.message import EmailMessage

from sbh_pipelines.orchestration.alerting.alert import Alert
from sbh_pipelines.orchestration.alerting.channels.channel import TIMEOUT_S, ChannelKind
from sbh_pipelines.settings import AlertSettings
from sbh_pipelines.settings.secrets import resolve


def send_mail(settings: AlertSettings, alert: Alert) -> None:
    message = EmailMessage()
    message["Subject"] = " ".join(alert.title.split())
    message["From"], message["To"] = settings.mail_from, ", ".join(settings.mail_to)
    message["X-Priority"] = "1" if alert.severity == "critical" else "3"
    message.set_content(alert.text())
    with smtplib.SMTP(settings.smtp_host or "", settings.smtp_port, timeout=TIMEOUT_S) as server:
        if settings.smtp_starttls:
            server.starttls(context=ssl.create_default_context())
        if settings.smtp_user:
            server.login(settings.smtp_user, resolve(settings, "smtp_password") or "")
        server.send_message(message)


CHANNEL = ChannelKind("mail", "e-mail", lambda settings: bool(settings.smtp_host and settings.mail_to), send_mail)
