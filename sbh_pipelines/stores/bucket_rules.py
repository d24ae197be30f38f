"""What a bucket's policy and lifecycle rules mean for backups. Pure; in doubt a rule is taken to apply."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

_READ_AT_ONCE = {"STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "REDUCED_REDUNDANCY"}


def denies_plaintext(policy: Mapping[str, Any], bucket: str) -> bool:
    """Whether a statement denies everybody everything in the bucket when asked without TLS."""
    return any(_denies(statement, bucket) for statement in _list(policy.get("Statement")))


def _denies(statement: Any, bucket: str) -> bool:
    if not isinstance(statement, Mapping) or statement.get("Effect") != "Deny":
        return False
    principal = statement.get("Principal")
    if principal != "*" and not (isinstance(principal, Mapping) and "*" in _list(principal.get("AWS"))):
        return False
    if not {"s3:*", "*"} & {str(action).lower() for action in _list(statement.get("Action"))}:
        return False
    resources = [str(resource).rpartition(":::")[2] for resource in _list(statement.get("Resource"))]
    if not any(fnmatchcase(f"{bucket}/any/key", resource) for resource in resources):
        return False
    condition = statement.get("Condition")
    if not isinstance(condition, Mapping) or set(condition) != {"Bool"} or not isinstance(condition["Bool"], Mapping):
        return False  # further conditions would all have to hold as well
    bounds = {str(name).lower(): value for name, value in condition["Bool"].items()}
    return set(bounds) == {"aws:securetransport"} and [str(v).lower() for v in _list(bounds.popitem()[1])] == ["false"]


def expires(rule: Mapping[str, Any], prefix: str) -> bool:
    """Whether a lifecycle rule deletes current objects below `prefix` (of which `{tenant}` is any tenant)."""
    expiration = rule.get("Expiration") or {}
    return _applies(rule, prefix) and bool(expiration.get("Days") or expiration.get("Date"))


def moves_away(rule: Mapping[str, Any], prefix: str) -> bool:
    """Whether it moves them to a storage class from which they must be thawed first."""
    classes = {str(move.get("StorageClass")) for move in rule.get("Transitions") or []}
    return _applies(rule, prefix) and bool(classes - _READ_AT_ONCE)


def _applies(rule: Mapping[str, Any], prefix: str) -> bool:
    if rule.get("Status") != "Enabled":
        return False
    narrowed = rule.get("Filter") or {}
    every = narrowed.get("And") or {}
    wanted = narrowed.get("Prefix") or every.get("Prefix") or rule.get("Prefix") or ""
    return _overlap(wanted, prefix)


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
