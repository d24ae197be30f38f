"""Text of databases in other encodings than UTF-8, for people and for exports. Bytes that mean nothing stay what they are.

Rows are stored and restored in the database's encoding, and nothing here takes part in that. Names of encodings are PostgreSQL's
(documentation, "Character Set Support").
"""

import re

from sbh_pipelines.database.session.sql import SQL_ASCII, UTF8

_CODECS = {
    UTF8: "utf-8", SQL_ASCII: "utf-8", "LATIN1": "iso8859-1", "LATIN2": "iso8859-2", "LATIN3": "iso8859-3", "LATIN4": "iso8859-4",
    "LATIN5": "iso8859-9", "LATIN6": "iso8859-10", "LATIN7": "iso8859-13", "LATIN8": "iso8859-14", "LATIN9": "iso8859-15",
    "LATIN10": "iso8859-16", "ISO_8859_5": "iso8859-5", "ISO_8859_6": "iso8859-6", "ISO_8859_7": "iso8859-7",
    "ISO_8859_8": "iso8859-8", "KOI8R": "koi8-r", "KOI8U": "koi8-u", "WIN866": "cp866", "WIN874": "cp874",
    **{f"WIN{number}": f"cp{number}" for number in range(1250, 1259)},
    "EUC_JP": "euc_jp", "EUC_CN": "gb2312", "EUC_KR": "euc_kr", "EUC_JIS_2004": "euc_jis_2004",
}  # fmt: skip
_STRAY = re.compile("[\udc80-\udcff]")


def to_utf8(text: bytes, encoding: str) -> bytes:
    """Text of a database in UTF-8; bytes that mean nothing in its encoding are left as they are."""
    if text.isascii() or encoding in (UTF8, SQL_ASCII):
        return text
    # Python has no codec for EUC_TW and MULE_INTERNAL: of these only ASCII means anything here.
    return text.decode(_CODECS.get(encoding, "ascii"), "surrogateescape").encode("utf-8", "surrogateescape")


def is_text(text: bytes) -> bool:
    """Whether all of it is UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def parsable(text: bytes) -> str:
    """UTF-8 as a string, in which a byte that is none is half of a surrogate pair: no character that a parser knows."""
    return text.decode("utf-8", "surrogateescape")


def printable(text: str) -> str:
    r"""What `parsable` gave, with bytes that are no UTF-8 written as `\xNN`."""
    if _STRAY.search(text) is None:
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
