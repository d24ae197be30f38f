"""What a tenant's blocks are sealed to."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A tenant's public key of the journal.

    Attributes:
        home: Name of the repository whose data key it is derived from.
        tenant_key: The tenant's key in the application.
        epoch: Key epoch of that data key.
        public: 32 bytes, X25519.
    """

    home: str
    tenant_key: str
    epoch: int
    public: bytes
