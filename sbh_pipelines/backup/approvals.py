"""Approvals: a restore that one person asks for and another allows, before anything is overwritten.

Three objects below `approvals/` of the tenant's repository, each signed with the tenant's key and written once:

    ID.json           the request: exactly what is to be done, why, who asks, until when
    ID-decision.json  approved or rejected, by whom
    ID-use.json       the restore that it was used for has begun

Each is created only where it is not there yet, so of two who decide at once, or of two restores that use one approval at
once, exactly one wins, and nothing that was said is ever overwritten. A process that dies between two of them leaves a
request that can still be decided, or an approval that can still be used. Decision and use carry the digest of the
request, which carries all that is asked for: an approval does for nothing else.

The signature keeps out whoever can write to the bucket but does not hold the tenant's key.
"""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Self

from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import ApprovalNeeded, CorruptObject, ObjectExists, ObjectMissing, RequestError, SbhError
from sbh_pipelines.model import ApprovalId, parse_timestamp, timestamp
from sbh_pipelines.repository.bounds import listed
from sbh_pipelines.repository.documents import SEALED, keyed_digest, open_private, read_signed, signed
from sbh_pipelines.repository.format import canonical
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.security.people import Person, link_to, one_person

FOLDER = "approvals/"
_REQUEST, _DECISION, _USE = "approval-request", "approval-decision", "approval-use"
_LONGEST_REASON = 500
_MOST_LISTED = 1000


@dataclass(frozen=True, slots=True)
class Approval:
    """A request, and what became of it.

    Attributes:
        tenant_id: whose data would be overwritten.
        approval_id: the approval.
        status: requested, approved, rejected, used or expired, at the time when it was read.
        subject: what is asked for, in full; see `restore_subject` and `undo_subject`.
        digest: of the tenant and the subject, keyed with the tenant's key: `hmac-sha256:` and hex. Of earlier releases `sha256:`.
        reason: why it is needed.
        requested_by: the user who asked.
        requested_at: time of the request, UTC.
        expires_at: when it can no longer be decided or used, UTC.
        decision: approved or rejected; empty before.
        decided_by: the user who decided.
        decided_at: time of the decision, UTC.
        comment: what was said about it.
        used_by: the user whose restore it was used for.
        used_at: when that began, UTC.
        requester_issued_by: by whose tokens that of the user who asked was issued, nearest first.
        decider_issued_by: by whose tokens that of the user who decided was issued.
    """

    tenant_id: str
    approval_id: ApprovalId
    status: str
    subject: Mapping[str, object]
    digest: str
    reason: str
    requested_by: str
    requested_at: str
    expires_at: str
    decision: str = ""
    decided_by: str = ""
    decided_at: str = ""
    comment: str = ""
    used_by: str = ""
    used_at: str = ""
    requester_issued_by: Sequence[str] = ()
    decider_issued_by: Sequence[str] = ()

    @property
    def requester(self) -> Person:
        return Person(self.requested_by, tuple(self.requester_issued_by))

    @property
    def decider(self) -> Person:
        return Person(self.decided_by, tuple(self.decider_issued_by))

    def at(self, now: datetime) -> Self:
        """The same approval with the status that it has at a time."""
        status = "expired" if now >= parse_timestamp(self.expires_at) else self.decision or "requested"
        if self.decision == "rejected":
            status = self.decision
        return replace(self, status="used" if self.used_by else status)


def ask(
    repository: Repository, subject: Mapping[str, object], reason: str, who: Person, now: datetime, lifetime: timedelta
) -> Approval:
    """Put a request on record. Raises RequestError without a reason."""
    made = Approval(
        repository.tenant,
        ApprovalId.at(now, secrets.token_hex(3)),
        "requested",
        dict(subject),
        digest_of(repository, subject),
        checked_reason(reason, "A request"),
        who.user_id,
        timestamp(now),
        timestamp(now + lifetime),
        requester_issued_by=who.issued_by,
    )
    names = ("approval_id", "subject", "digest", "reason", "requested_by", "requested_at", "expires_at")
    shown, private = _split(made.subject)
    fields = {**{name: getattr(made, name) for name in names}, "subject": shown}
    fields |= {"requester_issued_by": list(who.issued_by)} if who.issued_by else {}
    key = _key(repository, made.approval_id)
    body = signed(repository, _REQUEST, fields, key[len(repository.prefix) :], private)
    repository.store.create(key, body)
    return made


def decide(
    repository: Repository, approval_id: ApprovalId, decision: str, who: Person, comment: str, now: datetime
) -> Approval:
    """Approve or reject a request. Raises RequestError, and ApprovalNeeded for the person who asked."""
    found = read_approval(repository, approval_id, now)
    if found.status != "requested":
        raise RequestError(
            "Nothing is left to decide", on=approval_id, why=f"it is {found.status}", remedy="ask for a new one"
        )
    # Whoever asked may take the request back, but not allow it.
    if decision == "approved" and one_person(who, found.requester):
        raise ApprovalNeeded(
            "Nobody approves their own request",
            on=approval_id,
            why=link_to(who, found.requester),
            remedy="ask another person with the role admin",
        )
    if len(comment) > _LONGEST_REASON:
        raise _too_long("The comment")
    fields = {
        "approval_id": approval_id,
        "digest": found.digest,
        "decision": decision,
        "decided_by": who.user_id,
        "decided_at": timestamp(now),
        "comment": comment,
        **({"decider_issued_by": list(who.issued_by)} if who.issued_by else {}),
    }
    _create_once(repository, approval_id, "decision", _DECISION, fields, "somebody else decided at the same moment")
    decided = replace(found, decision=decision, decided_by=who.user_id, decided_at=timestamp(now), comment=comment)
    return replace(decided, decider_issued_by=who.issued_by).at(now)


def use(
    repository: Repository, approval_id: ApprovalId, subject: Mapping[str, object], user_id: str, now: datetime
) -> Approval:
    """Use an approval for exactly this; it cannot be used again. Raises ApprovalNeeded."""
    found, why = read_approval(repository, approval_id, now), ""
    if found.digest != digest_of(repository, subject, found.digest):
        why = "it is for another backup, scope or mode; `sbh approvals show` says for which"
    elif found.status != "approved":
        why = {"requested": "nobody has approved it yet"}.get(found.status, f"it is {found.status}")
    elif one_person(found.requester, found.decider):
        why = "one person asked for it and approved it"
    if why:
        raise ApprovalNeeded(
            "The approval does not allow this", on=approval_id, why=why, remedy="ask for one: `sbh restore request`"
        )
    fields = {"approval_id": approval_id, "digest": found.digest, "used_by": user_id, "used_at": timestamp(now)}
    _create_once(repository, approval_id, "use", _USE, fields, "it was used at the same moment")
    return replace(found, used_by=user_id, used_at=timestamp(now)).at(now)


def read_approval(repository: Repository, approval_id: ApprovalId, now: datetime) -> Approval:
    """Raises RequestError where there is none, CorruptObject."""
    try:
        asked = _read(repository, _key(repository, approval_id), _REQUEST, approval_id)
    except ObjectMissing:
        raise RequestError(
            "No such approval", on=f"{approval_id} of {repository.tenant}", remedy="see `sbh approvals list`"
        ) from None
    private = open_private(repository, _key(repository, approval_id)[len(repository.prefix) :], asked)
    asked.pop(SEALED, None)
    asked["subject"] = _joined(asked["subject"], private)
    found = Approval(repository.tenant, ApprovalId(asked.pop("approval_id")), "requested", **asked)
    if found.digest != digest_of(repository, found.subject, found.digest):
        raise _damaged(repository, approval_id, "its digest is of another request")
    for part, kind in (("decision", _DECISION), ("use", _USE)):
        try:
            more = _read(repository, _key(repository, approval_id, part), kind, approval_id)
        except ObjectMissing:
            continue
        if more.pop("digest") != found.digest:
            raise _damaged(repository, approval_id, f"its {part} is about another request")
        del more["approval_id"]
        found = replace(found, **more)
    return found.at(now)


def list_approvals(repository: Repository, now: datetime) -> tuple[list[Approval], list[SbhError]]:
    """The newest first, at most 1,000, and an error for each that cannot be read."""
    ids = []
    for info in listed(repository.store, repository.prefix, FOLDER):
        name = info.key[len(repository.prefix) + len(FOLDER) :].removesuffix(".json")
        if ApprovalId.valid(name):
            ids.append(ApprovalId(name))

    def read(approval_id: ApprovalId) -> Approval | SbhError:
        try:
            return read_approval(repository, approval_id, now)
        except (CorruptObject, RequestError) as error:
            return error

    read_ones = side_by_side(read, sorted(ids, reverse=True)[:_MOST_LISTED], name="approvals")
    found = [one for one in read_ones if isinstance(one, Approval)]
    return found, [one for one in read_ones if isinstance(one, SbhError)]


def digest_of(repository: Repository, subject: Mapping[str, object], like: str = "") -> str:
    """Of what is asked for, the tenant included. `like`: a digest whose kind it is to have: earlier releases keyed none."""
    whole = {"tenant_id": repository.tenant, "subject": dict(subject)}
    if like.startswith(_UNKEYED):
        return _UNKEYED + hashlib.sha256(canonical(whole)).hexdigest()
    return keyed_digest(repository, whole)


_UNKEYED = "sha256:"
_SEARCHED = ("rows", "files")  # of a request


def _split(subject: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """What of a subject is stored as it is, and what sealed: predicates and patterns, and the digest of patterns."""
    shown, private, request = dict(subject), dict[str, object](), subject.get("request")
    if isinstance(request, Mapping) and (hidden := {name: request[name] for name in _SEARCHED if request.get(name)}):
        shown["request"] = {name: value for name, value in request.items() if name not in hidden}
        private["request"] = hidden
    if "touched" in shown:
        private["touched"] = shown.pop("touched")
    return shown, private


def _joined(shown: Mapping[str, Any], private: Mapping[str, Any]) -> dict[str, object]:
    whole = {**shown, **private}
    if "request" in shown and "request" in private:
        whole["request"] = {**shown["request"], **private["request"]}
    return whole


def checked_reason(reason: str, what: str) -> str:
    """Raises RequestError."""
    if not reason.strip():
        raise RequestError(f"{what} needs a reason", remedy="say why, for those who decide and those who audit")
    if len(reason) > _LONGEST_REASON:
        raise _too_long("The reason")
    return reason


def _create_once(
    repository: Repository, approval_id: ApprovalId, part: str, kind: str, fields: Mapping[str, object], why: str
) -> None:
    try:
        repository.store.create(_key(repository, approval_id, part), signed(repository, kind, fields))
    except ObjectExists:
        raise ApprovalNeeded(
            "The approval is taken", on=approval_id, why=why, remedy="see `sbh approvals show`; ask for a new one"
        ) from None


def _read(repository: Repository, key: str, kind: str, approval_id: ApprovalId) -> dict[str, Any]:
    fields = read_signed(repository, key[len(repository.prefix) :], kind)
    if fields.get("approval_id") != approval_id:
        raise _damaged(repository, approval_id, "it was copied from another approval")
    return fields


def _key(repository: Repository, approval_id: ApprovalId, part: str = "") -> str:
    return f"{repository.prefix}{FOLDER}{approval_id}{'-' + part if part else ''}.json"


def _damaged(repository: Repository, approval_id: ApprovalId, why: str) -> CorruptObject:
    return CorruptObject(
        "An approval is not what it was",
        on=repository.url(f"{FOLDER}{approval_id}.json"),
        why=why,
        remedy="see who can write to the bucket; ask for a new approval",
    )


def _too_long(what: str) -> RequestError:
    return RequestError(f"{what} is too long", why=f"it may have {_LONGEST_REASON} characters", remedy="shorten it")
