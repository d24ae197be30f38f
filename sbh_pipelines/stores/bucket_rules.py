"""What a bucket's policy and lifecycle rules mean for backups. Pure; in doubt a rule is taken to apply."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

_BUT = {"ArnNotEquals", "ArnNotLike", "StringNotEquals", "StringNotLike"}
_WHO = {"aws:principalarn", "aws:principalaccount", "aws:userid"}
_READ_AT_ONCE = {"STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "REDUCED_REDUNDANCY"}


def denies_plaintext(policy: Mapping[str, object], bucket: str) -> bool:
    """Whether a statement denies everybody everything in the bucket when asked without TLS."""
    return any(_denies(statement, bucket) for statement in _list(policy.get("Statement")))


def denies_foreign_writes(policy: Mapping[str, object], bucket: str, prefix: str) -> bool:
    """Whether a statement denies everybody but some principals to put objects below `prefix` (`{tenant}`: any tenant)."""
    key = f"{prefix.replace('{tenant}', 'any-tenant')}packs/any"
    return any(_denies_puts(statement, bucket, key) for statement in _list(policy.get("Statement")))


def _denies_puts(statement: Any, bucket: str, key: str) -> bool:
    if not _denies_everybody(statement, bucket, key, "s3:putobject"):
        return False
    condition = statement.get("Condition")
    if not isinstance(condition, Mapping) or not condition:
        return False  # it would deny the program's own writes as well: nothing is written there
    return all(
        operator in _BUT and isinstance(bounds, Mapping) and {str(name).lower() for name in bounds} <= _WHO
        for operator, bounds in condition.items()
    )


def _denies_everybody(statement: Any, bucket: str, key: str, wanted: str) -> bool:
    """Whether a statement denies everybody this action on this key, its conditions not looked at."""
    if not isinstance(statement, Mapping) or statement.get("Effect") != "Deny":
        return False
    principal = statement.get("Principal")
    if principal != "*" and not (isinstance(principal, Mapping) and "*" in _list(principal.get("AWS"))):
        return False
    if not any(fnmatchcase(wanted, str(action).lower()) for action in _list(statement.get("Action"))):
        return False
    resources = [str(resource).rpartition(":::")[2] for resource in _list(statement.get("Resource"))]
    return any(fnmatchcase(f"{bucket}/{key}", resource) for resource in resources)


def _denies(statement: Any, bucket: str) -> bool:
    if not _denies_everybody(statement, bucket, "any/key", "s3:*"):
        return False
    condition = statement.get("Condition")
    if not isinstance(condition, Mapping) or set(condition) != {"Bool"} or not isinstance(condition["Bool"], Mapping):
        return False  # further conditions would all have to hold as well
    bounds = {str(name).lower(): value for name, value in condition["Bool"].items()}
    return set(bounds) == {"aws:securetransport"} and [str(v).lower() for v in _list(bounds.popitem()[1])] == ["false"]


@dataclass(frozen=True, slots=True)
class LifecycleRule:
    """What a lifecycle rule of a bucket does to objects.

    Attributes:
        name: The rule's ID.
        enabled: Whether it is in force.
        prefix: What the keys that it reaches begin with; '' for all.
        deletes: Whether it deletes objects after some days, or on a date.
        storage_classes: Those that it moves objects to.
        version_days: How long a version is kept at least that is no longer the current one; None: it removes none.
    """

    name: str
    enabled: bool
    prefix: str
    deletes: bool
    storage_classes: frozenset[str]
    version_days: int | None = None

    @classmethod
    def parse(cls, rule: Mapping[str, Any]) -> "LifecycleRule":
        """A rule as S3 gives it."""
        narrowed, expiration = rule.get("Filter") or {}, rule.get("Expiration") or {}
        older = rule.get("NoncurrentVersionExpiration") or {}
        every = narrowed.get("And") or {}
        return cls(
            str(rule.get("ID") or "(no name)"),
            rule.get("Status") == "Enabled",
            narrowed.get("Prefix") or every.get("Prefix") or rule.get("Prefix") or "",
            bool(expiration.get("Days") or expiration.get("Date")),
            frozenset(str(move.get("StorageClass")) for move in rule.get("Transitions") or []),
            int(older["NoncurrentDays"]) if older.get("NoncurrentDays") else None,
        )

    def expires(self, prefix: str) -> bool:
        """Whether it deletes current objects below `prefix` (of which `{tenant}` is any tenant)."""
        return self.deletes and self._reaches(prefix)

    def versions_kept(self, prefix: str) -> int | None:
        """For how many days it lets versions below `prefix` be once they are not current any more; None: for ever."""
        return self.version_days if self.version_days is not None and self._reaches(prefix) else None

    def moves_away(self, prefix: str) -> bool:
        """Whether it moves them to a storage class from which they must be thawed first."""
        return bool(self.storage_classes - _READ_AT_ONCE) and self._reaches(prefix)

    def _reaches(self, prefix: str) -> bool:
        return self.enabled and _overlap(self.prefix, prefix)


def _overlap(wanted: str, prefix: str) -> bool:
    """Whether some key begins with both; the last segment of `wanted` may be a part of a name."""
    theirs, ours = wanted.split("/"), prefix.rstrip("/").split("/")
    for nth, (their, our) in enumerate(zip(theirs, ours, strict=False)):
        begins, _, ends = our.partition("{tenant}")
        if nth == len(theirs) - 1:  # a part of a name
            return begins.startswith(their) or ("{tenant}" in our and their.startswith(begins))
        fits = their.startswith(begins) and their.endswith(ends) if "{tenant}" in our else their == our
        if not fits:
            return False
    return True


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
