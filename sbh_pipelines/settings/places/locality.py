"""Which hosts are this machine, by their names alone, and what may be spoken to others without TLS: nothing, unless allowed.

No name is looked up: what a resolver answers is not a reason to send secrets in the clear.
"""

from ipaddress import ip_address
from urllib.parse import urlsplit

from sbh_pipelines.errors import SettingsError


def is_local(host: str) -> bool:
    """Whether a host is this machine: `localhost`, a loopback address, a directory of Unix sockets, or empty (libpq's default)."""
    name = host.strip().strip("[]").rstrip(".").lower()
    if not name or name.startswith(("/", "@")) or name == "localhost":
        return True
    try:
        address = ip_address(name.split("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def is_plain_http(url: str) -> bool:
    """Whether the address is another machine's, and plain http; what is no address at all is not."""
    try:
        parts = urlsplit(url)
        return parts.scheme.lower() == "http" and bool(parts.hostname) and not is_local(parts.hostname or "")
    except ValueError:
        return False


CONTENT = "backups, keys and names of tenants would cross the network where others can read and change them"
CREDENTIAL = "the API's token, which may act for anybody, would cross the network where others can read it"


def require_tls(
    url: str | None, field: str, *, allow_http: bool, setting: str = "storage.allow_http", why: str = CONTENT
) -> None:
    """Raises SettingsError for an address that is neither https nor on this machine, unless it is allowed, by `setting`.

    The address itself is not shown whole: that of a webhook may hold a token.
    """
    if not url or allow_http:
        return
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme.lower(), parts.hostname or ""
    except ValueError:
        raise SettingsError(f"{field} is no address", remedy="correct it, e.g. https://host.example.com") from None
    if scheme == "https" or (scheme == "http" and host and is_local(host)):
        return
    raise SettingsError(
        f"{field} is not encrypted",
        on=f"{scheme or '(no scheme)'}://{host}",
        why=why,
        remedy=f"use https; on a network that is trusted all the same, set {setting} = true",
    )
