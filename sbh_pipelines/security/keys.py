"""Envelope encryption: a random data key per tenant, wrapped by AWS KMS or by a local key file.

The wrapped key is bound to its tenant: by KMS's encryption context, or by the associated data of AES-GCM. A key object
copied from another tenant therefore does not unwrap.
"""

from sbh_pipelines.security.aws_kms import AwsKms
from sbh_pipelines.security.key_file import LocalKeyFile
from sbh_pipelines.security.key_provider import DATA_KEY_BYTES, EitherProvider, KeyProvider
from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.secrets import resolve

__all__ = ["DATA_KEY_BYTES", "AwsKms", "EitherProvider", "KeyProvider", "LocalKeyFile", "open_key_provider"]


def open_key_provider(settings: Settings) -> KeyProvider:
    """The provider that the settings name, which also reads what the other one wrapped where that is set up.

    Explicit credentials of the storage are KMS's too; without them the SDK's own chain counts.
    """
    keys, storage = settings.keys, settings.storage
    access = {}
    if storage.access_key_id:
        secret = resolve(storage, "secret_access_key", storage.real_region("") or None) or ""
        access = {"aws_access_key_id": storage.access_key_id, "aws_secret_access_key": secret}
    kms = AwsKms(
        keys.kms_key_id,
        keys.kms_endpoint_url,
        access,
        timeout_s=keys.kms_timeout_s,
        deletion_days=keys.kms_deletion_days,
        lies_in=keys.real_region("") or None,
    )
    if keys.provider == "local":
        assert keys.key_file is not None
        return EitherProvider(LocalKeyFile(keys.key_file, keys.previous_key_files), kms)
    files = [file for file in (keys.key_file, *keys.previous_key_files) if file is not None]
    return EitherProvider(kms, LocalKeyFile(files[0], files[1:])) if files else kms
