"""One page of a bucket's listing, by a request of our own: it may begin behind any key, and every key in it is exact.

It takes some 4 µs of CPU an object; boto3 takes ten times that, and obstore cannot name every key.
"""

import re
from datetime import datetime
from html import unescape
from urllib.parse import unquote_plus

from sbh_pipelines.errors import StoreError
from sbh_pipelines.stores.base import ObjectInfo, Page
from sbh_pipelines.stores.signed.client import SignedClient

_ELEMENT = re.compile(r"<(Contents|Key|LastModified|ETag|Size|IsTruncated|EncodingType)>([^<]*)")


def list_page(client: SignedClient, prefix: str, after: str) -> Page:
    """At most a thousand of the objects below `prefix`, from behind `after` on. Raises the store's errors."""
    query = [("encoding-type", "url"), ("list-type", "2"), ("prefix", prefix), ("start-after", after)]
    document, _ = client.read("list objects", "GET", "", query=query)
    try:
        return _page(document.decode())
    except (ValueError, KeyError) as error:
        raise StoreError(
            "The store's listing cannot be read",
            on=client.url(prefix),
            why=" ".join(f"{type(error).__name__}: {error}".split())[:200],
            remedy="try again; if it stays so, do not use this store",
        ) from None


def _page(document: str) -> Page:
    found: list[dict[str, str]] = []
    told: dict[str, str] = {}
    for name, text in _ELEMENT.findall(document):
        if name == "Contents":
            found.append(told_of := {})
        elif name in ("IsTruncated", "EncodingType"):
            told[name] = text
        else:
            told_of[name] = unescape(text)
    if told["IsTruncated"] not in ("true", "false"):
        raise ValueError("it does not say whether there is more")
    decode = _decoded if told.get("EncodingType") == "url" else str
    return Page(
        [
            ObjectInfo(decode(one["Key"]), int(one["Size"]), one["ETag"], datetime.fromisoformat(one["LastModified"]))
            for one in found
        ],
        told["IsTruncated"] == "true",
    )


def _decoded(key: str) -> str:
    return unquote_plus(key, errors="strict")
