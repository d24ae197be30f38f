"""The local signing key of tokens: Ed25519 in PEM.

A key pair and not a shared secret: a process that only checks tokens (the API, the web UI) can be given the public half, and
cannot make any then. Ed25519, because it has no parameters to get wrong, and its keys and signatures are short.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sbh_pipelines.errors import SettingsError

ALGORITHM = "EdDSA"
_LARGEST_FILE = 64 << 10


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """`private` is None on a host that checks tokens only."""

    public: Ed25519PublicKey
    private: Ed25519PrivateKey | None


def new_signing_key() -> tuple[str, str]:
    """A new private key and its public half, PEM."""
    private = Ed25519PrivateKey.generate()
    secret = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return secret.decode("ascii"), public.decode("ascii")


def write_signing_key(file: Path) -> Path:
    """Make a key: FILE (mode 0600) and FILE.pub, whose path is given. Raises SettingsError, also where FILE exists."""
    secret, public = new_signing_key()
    public_file = file.with_name(file.name + ".pub")
    try:
        for path, text, mode in ((file, secret, 0o600), (public_file, public, 0o644)):
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="ascii") as stream:
                stream.write(text)
    except OSError as error:
        raise SettingsError(
            "Cannot write the signing key",
            on=str(error.filename or file),
            why=error.strerror or type(error).__name__,
            remedy="choose a file that does not exist yet, in a directory that is yours; a key is never overwritten",
        ) from None
    return public_file


def read_signing_key(file: Path) -> SigningKey:
    """The key in `file`, or only its public half. Raises SettingsError, also where others may read or change it."""
    try:
        with open(file, "rb") as stream:
            mode, text = stat.S_IMODE(os.fstat(stream.fileno()).st_mode), stream.read(_LARGEST_FILE)
    except OSError as error:
        raise SettingsError(
            "Cannot read the signing key",
            on=str(file),
            why=error.strerror or type(error).__name__,
            remedy="make one with `sbh token key --write FILE`, or correct auth.signing_key_file",
        ) from None
    secret = b"PRIVATE KEY" in text
    if mode & (0o077 if secret else 0o022):
        raise SettingsError(
            "The signing key is open to others",
            on=str(file),
            why=f"its mode is {mode:04o}: whoever {'reads' if secret else 'changes'} it can be anybody",
            remedy=f"chmod {'600' if secret else '644'} {file}, and make a new key if others could get at it",
        )
    try:
        if secret:
            private = serialization.load_pem_private_key(text, password=None)
            if isinstance(private, Ed25519PrivateKey):
                return SigningKey(private.public_key(), private)
        else:
            public = serialization.load_pem_public_key(text)
            if isinstance(public, Ed25519PublicKey):
                return SigningKey(public, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # damaged, encrypted, of an unknown kind
        pass
    raise SettingsError(
        "The signing key is not an Ed25519 key in PEM",
        on=str(file),
        remedy="make one with `sbh token key --write FILE`",
    )
