"""Where a secret comes from: the environment or the file's own field, a file, or AWS Secrets Manager.

A secret of Secrets Manager may be the bare text, or a JSON object as RDS and rotations write it: then the key counts that has
the field's name, e.g. `password`.
"""

import json
import re
from typing import Any

from pydantic import SecretStr

from sbh_pipelines.errors import KeyServiceError, KeyServiceUnavailable, SettingsError
from sbh_pipelines.settings.section import Section

# An ARN, with what ECS adds to it: the key of a JSON object, the version's stage and id.
_ARN = re.compile(
    r"(?P<arn>arn:[\w-]+:secretsmanager:(?P<region>[\w-]+):\d+:secret:[^:]+)(:(?P<key>[^:]*))?(:[^:]*){0,2}"
)
_NOT_FOUND = "ResourceNotFoundException"
_REMEDIES = {
    _NOT_FOUND: "correct its name, or give its ARN, which names the region",
    "AccessDeniedException": "allow secretsmanager:GetSecretValue on it to the role that sbh runs as",
    "DecryptionFailure": "allow kms:Decrypt on the secret's KMS key, and see that the key is enabled",
    "InvalidRequestException": "the secret is marked for deletion, or has no value yet: aws secretsmanager restore-secret,"
    " or put-secret-value",
    "UnrecognizedClientException": "correct the AWS credentials: aws sts get-caller-identity shows which are used",
    "InvalidSignatureException": "correct the AWS secret key, and the machine's clock",
    "ExpiredTokenException": "renew the AWS credentials, e.g. aws sso login",
    "NoCredentialsError": "give AWS credentials: an instance's role, AWS_PROFILE, or a web identity",
    "NoRegionError": "give the secret's ARN, or set AWS_REGION",
}
_TRANSIENT = {"InternalServiceError", "ThrottlingException", "TooManyRequestsException"}


def resolve(section: Section, name: str, region: str | None = None) -> str | None:
    """The secret `name` of a settings section, from `name`, `name_file` or `name_secret`; None when none is set.

    Raises SettingsError (an unreadable file, a JSON secret without the key) and KeyServiceError (Secrets Manager); neither
    shows the value.
    """
    value: SecretStr | None = getattr(section, name)
    if value is not None:
        return value.get_secret_value()
    if file := getattr(section, f"{name}_file", None):
        try:
            return str(file.read_text("utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                "Cannot read a secret's file",
                on=f"{name}_file = {file}",
                why=type(error).__name__,
                remedy="create it, mode 0600",
            ) from None
    if secret := getattr(section, f"{name}_secret", None):
        return _from_secrets_manager(secret, name, (region, section.home_region))
    return None


def _from_secrets_manager(secret_id: str, name: str, regions: tuple[str | None, ...]) -> str:
    key = name
    if arn := _ARN.fullmatch(secret_id):
        secret_id, regions = arn["arn"], (arn["region"],)
        key = arn["key"] or name
    answer = _value(secret_id, regions)
    if "SecretString" not in answer:
        raise SettingsError(
            "A secret of AWS Secrets Manager is binary",
            on=secret_id,
            why="it must be text",
            remedy="store it with aws secretsmanager put-secret-value --secret-string",
        )
    return _in_json(secret_id, str(answer["SecretString"]).rstrip("\r\n"), key)


def _in_json(secret_id: str, text: str, key: str) -> str:
    """The text, or what it holds under the key where it is a JSON object."""
    try:
        fields = json.loads(text) if text.lstrip().startswith("{") else None
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        return text
    found = fields.get(key)
    if isinstance(found, str) and found:
        return found
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    keys = ", ".join(sorted(ascii(name)[1:-1] for name in fields)) or "none"
    raise SettingsError(
        "A secret of AWS Secrets Manager does not hold what is asked for",
        on=secret_id,
        why=f"it is a JSON object without a text under the key {key}; its keys are: {keys}",
        remedy=f"add the key {key}, or name another one after the secret's ARN, e.g. {{ARN}}:{next(iter(sorted(fields)), key)}::",
    )


def _value(secret_id: str, regions: tuple[str | None, ...]) -> dict[str, Any]:
    """The answer of the first region that has the secret. The session's own region is asked before the site's first one.

    A region that is away does not keep the others from being asked. Where none has it, what is said is that of the first that is
    away.
    """
    import boto3  # only sites that use it pay for its import
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    session, patience = boto3.Session(), Config(connect_timeout=5, read_timeout=10)
    asked = dict.fromkeys(found for found in (regions[0], session.region_name, *regions[1:]) if found)
    if _ARN.fullmatch(secret_id):
        asked = dict.fromkeys(found for found in regions if found)
    code, away = "NoRegionError", list[KeyServiceError]()
    for region in asked:
        try:
            client = session.client("secretsmanager", region_name=region, config=patience)
            answer: dict[str, Any] = client.get_secret_value(SecretId=secret_id)
            return answer
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            failed = _error(secret_id, region, code, "")
        except BotoCoreError as error:
            code = type(error).__name__
            failed = _error(secret_id, region, code, str(error))
        if isinstance(failed, KeyServiceUnavailable):
            away.append(failed)
        elif code != _NOT_FOUND:
            raise failed
    if away:
        raise away[0]
    raise _error(secret_id, ", ".join(asked) or "no region", code, "")


def _error(secret_id: str, region: str, code: str, text: str) -> KeyServiceError:
    unreachable = code not in _REMEDIES and bool(text)  # of boto3, before there was an answer
    kind = KeyServiceUnavailable if code in _TRANSIENT or unreachable else KeyServiceError
    default = "check the network's way to Secrets Manager" if unreachable else "try again" if code in _TRANSIENT else ""
    return kind(
        "Cannot read a secret from AWS Secrets Manager",
        on=f"{secret_id} in {region}",
        why=": ".join(filter(None, (code, text[:300] if unreachable else ""))),
        remedy=_REMEDIES.get(code, default or "see that the secret is there and that the role may read it"),
    )
