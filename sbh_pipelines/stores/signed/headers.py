"""What S3 keeps with an object: headers, metadata, tags, storage class; read from an answer, and put back with the next request.

Values are texts of which each character is a byte (ISO 8859-1), so that no bytes are lost, whatever their encoding. Names of
headers begin with a capital; names of metadata, which are in lower case, have no prefix.
"""

import re
from collections.abc import Mapping
from html import unescape
from urllib.parse import urlencode

TAGGING, STORAGE_CLASS = "Tagging", "Storage-Class"
LOCK_MODE, LOCK_UNTIL = "Object-Lock-Mode", "Object-Lock-Retain-Until-Date"  # given, and never read from an answer

# Names that obstore gives them as well, where it has them.
_KEPT = {
    "content-type": "Content-Type",
    "content-encoding": "Content-Encoding",
    "content-language": "Content-Language",
    "content-disposition": "Content-Disposition",
    "cache-control": "Cache-Control",
    "expires": "Expires",
    "x-amz-website-redirect-location": "Website-Redirect-Location",
    "x-amz-storage-class": STORAGE_CLASS,
}
_SENT = {ours: theirs for theirs, ours in _KEPT.items()} | {
    TAGGING: "x-amz-tagging",
    LOCK_MODE: "x-amz-object-lock-mode",
    LOCK_UNTIL: "x-amz-object-lock-retain-until-date",
}
_METADATA = "x-amz-meta-"
# Classes from which an object cannot be read at once. What is put back is read back, so it goes into the standard class.
ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_OF_OBSTORE = {"Content-Type", "Content-Encoding", "Content-Language", "Content-Disposition", "Cache-Control"}
_PLAIN = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")


def attributes_of(answer: Mapping[str, str]) -> dict[str, str]:
    """What an answer's headers (names in lower case) say of the object, without its tags."""
    found = {ours: answer[theirs] for theirs, ours in _KEPT.items() if theirs in answer}
    if found.get(STORAGE_CLASS) == "STANDARD":
        del found[STORAGE_CLASS]
    return found | {n[len(_METADATA) :]: value for n, value in answer.items() if n.startswith(_METADATA)}


def headers_of(attributes: Mapping[str, str]) -> dict[str, str]:
    """The headers of a request that gives a new object these attributes."""
    kept = {n: v for n, v in attributes.items() if not (n == STORAGE_CLASS and v in ARCHIVES)}
    return {_SENT.get(name, _METADATA + name.lower()): value for name, value in kept.items()}


def fit_for_obstore(attributes: Mapping[str, str]) -> bool:
    """Whether obstore can put them as they are: it knows few headers, and no value but of ASCII."""
    return all(
        (name in _OF_OBSTORE or (name not in _SENT and name.islower())) and _PLAIN.fullmatch(value)
        for name, value in attributes.items()
    )


def tagging_of(document: bytes) -> str:
    """The tags of an answer to `GET ?tagging`, as the header of a put has them. Raises ValueError."""
    text = document.decode()
    tags = re.findall(r"<Tag>((?:(?!<Tag>).)*?)</Tag>", text, re.DOTALL)  # none reaches over another: read once
    pairs = [(_text(tag, "Key"), _text(tag, "Value")) for tag in tags]
    if not pairs:
        raise ValueError("the answer has no tags")
    return urlencode(pairs)


def _text(tag: str, name: str) -> str:
    # nosemgrep: expression-of-others - names of ours
    found = re.search(rf"<{name}>([^<]*)</{name}>", tag)
    return unescape(found[1]) if found else ""
