"""Where a trail ends: what the next event chains to, and what a writer leaves of that for the one after it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from sbh_pipelines.repository.trail.event import GENESIS, AuditEvent, AuditKey, Chain, line

CREATED, POLICY = "backup.created", "policy.changed"
_SEEN = b"head seen"


@dataclass(frozen=True, slots=True)
class TrailEnd:
    """Where the trail ends, and what the next event may depend on.

    Attributes:
        link: Number of the last link; 0 where there is none.
        seq: Number of the last event.
        hash: Its hash.
        backups_to: All backups up to this one have their event.
        policy: Digest of the policy that was recorded last.
    """

    link: int = 0
    seq: int = 0
    hash: str = GENESIS
    backups_to: str = ""
    policy: str = ""

    def after(self, event: AuditEvent) -> "TrailEnd":
        """The end once `event` was added to the link being written or read."""
        moved = replace(self, seq=event.seq, hash=event.hash)
        if event.inner and event.event == CREATED:
            return replace(moved, backups_to=max(self.backups_to, str(event.props.get("backup_id", ""))))
        if event.inner and event.event == POLICY:
            return replace(moved, policy=str(event.props.get("digest", "")))
        return moved


@dataclass(frozen=True, slots=True)
class HeadSeen:
    """What a writer knew of a head when it was done: who remembers it need not read the head to find the end.

    That no event came since is proved by the create-only put of the next link, and that nobody moved the head by the condition
    under which it is replaced. It lies with the tenant's backups, and is signed as the head is: else who has the tenant's data key
    could have the head go back.

    Attributes:
        end: Where the trail ended.
        etag: Of the head that says so.
        signature: Under the audit key, with the chain. Under another key the links are looked at anew.
    """

    end: TrailEnd
    etag: str
    signature: str

    @classmethod
    def of(cls, chain: Chain, end: TrailEnd, etag: str, key: AuditKey) -> Self:
        return cls(end, etag, key.sign(_SEEN, _said(chain, end, etag)))

    def is_genuine(self, chain: Chain, key: AuditKey) -> bool:
        return key.signed(_SEEN, _said(chain, self.end, self.etag), self.signature)

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Self:
        """Raises KeyError, TypeError, ValueError."""
        link, seq, backups_to, policy = (
            int(said["link"]),
            int(said["seq"]),
            str(said["backups_to"]),
            str(said["policy"]),
        )
        end = TrailEnd(link, seq, str(said["hash"]), backups_to, policy)
        if end.link < 1 or end.seq < 1 or len(end.hash) != len(GENESIS):
            raise ValueError("no end of a trail")
        return cls(end, str(said["etag"]), str(said["signature"]))

    def as_dict(self) -> dict[str, object]:
        return {**asdict(self.end), "etag": self.etag, "signature": self.signature}


def _said(chain: Chain, end: TrailEnd, etag: str) -> bytes:
    return line({**asdict(chain), **asdict(end), "etag": etag})
