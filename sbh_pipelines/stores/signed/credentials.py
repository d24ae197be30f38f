"""Who we are for AWS: the keys of the settings, else what boto3 finds, for all halves of the data path alike.

What boto3 finds may be an instance's role, a profile, SSO, a `credential_process`, a web identity; it is renewed in time. obstore
has a chain of its own, which knows fewer of these, so it is given ours.
"""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from sbh_pipelines.errors import SettingsError, StoreDenied

# For so long obstore may keep what it was given, less five minutes. boto3 renews keys ten minutes before their end at the latest.
_KEPT = timedelta(minutes=9)
_SESSION = threading.Lock()


@dataclass(frozen=True, slots=True)
class Keys:
    """What a request is signed with.

    Attributes:
        access: The access key's id.
        secret: The secret access key.
        token: The session token of temporary keys; None for lasting ones.
    """

    access: str
    secret: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"Keys({self.access})"


class Credentials:
    """The keys of the settings where `access_key_id` is given, else those that boto3 finds. Thread-safe."""

    def __init__(self, access_key_id: str | None = None, secret_access_key: str | None = None) -> None:
        self._fixed = Keys(access_key_id, secret_access_key or "") if access_key_id else None

    def keys(self) -> Keys:
        """The keys as they are now. Raises StoreDenied where there are none or they cannot be renewed, SettingsError."""
        if self._fixed:
            return self._fixed
        from botocore.exceptions import BotoCoreError

        try:
            found = session().get_credentials()
            frozen = found.get_frozen_credentials() if found else None
        except BotoCoreError as error:
            raise _none(f"{type(error).__name__}: {error}") from None
        if frozen is None or not frozen.access_key:
            raise _none("boto3 finds none: no role, profile, SSO session, credential_process or web identity")
        return Keys(frozen.access_key, frozen.secret_key or "", frozen.token)

    def provided(self) -> dict[str, Any]:
        """The keys as obstore asks for them: fixed ones too, or it adds a session token of the environment. Raises as `keys`."""
        keys = self.keys()
        return {
            "access_key_id": keys.access,
            "secret_access_key": keys.secret,
            "token": keys.token,
            "expires_at": None if self._fixed else datetime.now(UTC) + _KEPT,
        }

    def client_arguments(self) -> Mapping[str, str]:
        """Arguments of a boto3 client; empty where it finds the keys itself."""
        if not self._fixed:
            return {}
        return {"aws_access_key_id": self._fixed.access, "aws_secret_access_key": self._fixed.secret}


def session() -> Any:
    """boto3's session: one for each state of the environment, so that what it found is kept. Raises SettingsError."""
    from botocore.exceptions import ProfileNotFound

    try:
        with _SESSION:
            return _session(frozenset((n, v) for n, v in os.environ.items() if n.startswith("AWS_")))
    except ProfileNotFound as error:
        raise SettingsError(
            "There is no such AWS profile",
            on=f"AWS_PROFILE={os.environ.get('AWS_PROFILE', '')}",
            why=str(error),
            remedy="aws configure list-profiles names those that there are; correct AWS_PROFILE or unset it",
        ) from None


def client_of(service: str, **arguments: Any) -> Any:
    """A boto3 client; sessions make one at a time. Raises SettingsError."""
    made = session()
    with _SESSION:
        return made.client(service, **arguments)


@lru_cache(maxsize=4)
def _session(_: frozenset[tuple[str, str]]) -> Any:
    import boto3  # imported late: it takes a quarter of a second

    return boto3.Session()


def _none(why: str) -> StoreDenied:
    return StoreDenied(
        "There are no AWS credentials",
        on="storage.access_key_id is not set",
        why=why[:300],
        remedy="give the machine a role, name a profile with AWS_PROFILE and renew its SSO session with aws sso login, or set"
        " under [storage]: access_key_id and secret_access_key_file",
    )
