"""S3 through boto3: the client, and its errors as ours. For control calls, and for what obstore cannot do (`s3.py`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sbh_pipelines.errors import StoreUnavailable
from sbh_pipelines.stores.s3_errors import Told, s3_error
from sbh_pipelines.stores.signed.credentials import Credentials, client_of


def connect(
    region: str,
    *,
    endpoint_url: str | None = None,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    ca_file: Path | None = None,
    timeout_s: float = 60.0,
    connect_timeout_s: float = 60.0,
    retries: int = 5,
) -> Any:
    """A boto3 client of S3. No request is made yet. Raises SettingsError where there is no such AWS profile."""
    from botocore.config import Config  # imported late: it takes a quarter of a second, and few calls need it

    return client_of(
        "s3",
        region_name=region,
        endpoint_url=endpoint_url,
        verify=str(ca_file) if ca_file else None,
        **Credentials(access_key_id, secret_access_key).client_arguments(),
        config=Config(
            s3={"addressing_style": "path" if endpoint_url else "auto"},
            connect_timeout=min(timeout_s, connect_timeout_s),
            read_timeout=timeout_s,
            retries={"max_attempts": retries},
        ),
    )


def url_of(bucket: str, key: str = "") -> str:
    """The address of an object for people; characters that are not printable are escaped."""
    return f"s3://{bucket}/{ascii(key)[1:-1]}" if key else f"s3://{bucket}"


@contextmanager
def translated(
    action: str,
    on: str,
    *,
    missing: str = "",
    create: str = "",
    grant: str = "",
) -> Iterator[None]:
    """Raises boto3's errors as errors of `errors/`.

    `action` says in words what is tried, `on` to what. `missing`, with the remedy `create`, is said of what is not there;
    `grant` is the remedy where it is not allowed.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except ClientError as error:
        code, status = error_code(error)
        told = Told(code, status, str(error.response.get("Error", {}).get("Message", "")))
        raise s3_error(action, on, told, missing=missing, create=create, grant=grant) from None
    except NoCredentialsError:
        Credentials().keys()  # raises the error that says what to do, unless there are some now
        raise StoreUnavailable(f"Cannot reach the store to {action}", on=on, remedy="try again") from None
    except (BotoCoreError, Boto3Error, ValueError, RecursionError) as error:  # the last: redirected without an end
        raise StoreUnavailable(
            f"Cannot reach the store to {action}",
            on=on,
            why=type(error).__name__,
            remedy="check storage.endpoint_url, storage.ca_file, credentials, network; run `sbh doctor`",
        ) from None


def error_code(error: Any) -> tuple[str, int]:
    """The code of a `ClientError` and its HTTP status; '' and 0 where the answer has none."""
    response = error.response
    return str(response.get("Error", {}).get("Code", "")), response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
