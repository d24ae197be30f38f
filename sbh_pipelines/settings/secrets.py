"""Where a secret comes from: the environment or the file's own field, a file, or AWS Secrets Manager."""

from pydantic import BaseModel, SecretStr

from sbh_pipelines.errors import KeyServiceError, SettingsError


def resolve(section: BaseModel, name: str, region: str | None = None) -> str | None:
    """The secret `name` of a settings section, from `name`, `name_file` or `name_secret`; None when none is set.

    Raises SettingsError (an unreadable file) and KeyServiceError (Secrets Manager); neither shows the value.
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
        return _from_secrets_manager(secret, region)
    return None


def _from_secrets_manager(secret_id: str, region: str | None) -> str:
    import boto3  # only sites that use it pay for its import
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = boto3.client("secretsmanager", region_name=region).get_secret_value(SecretId=secret_id)
    except (BotoCoreError, ClientError) as error:
        raise KeyServiceError(
            "Cannot read a secret from AWS Secrets Manager",
            on=secret_id,
            why=type(error).__name__,
            remedy="allow secretsmanager:GetSecretValue on it, or correct its name",
        ) from None
    return str(answer["SecretString"])
