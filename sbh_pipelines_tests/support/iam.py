"""A small IAM: which action a request of S3's or KMS's API is, and whether a policy allows it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from xml.etree import ElementTree

from sbh_pipelines_tests.support.recording_proxy import Answer, Seen

FOLDER = Path(__file__).parents[2] / "deploy" / "policies"
_SUBRESOURCES = {
    ("GET", "location"): "s3:GetBucketLocation",
    ("GET", "versioning"): "s3:GetBucketVersioning",
    ("GET", "object-lock"): "s3:GetBucketObjectLockConfiguration",
    ("GET", "encryption"): "s3:GetEncryptionConfiguration",
    ("GET", "publicAccessBlock"): "s3:GetBucketPublicAccessBlock",
    ("GET", "policy"): "s3:GetBucketPolicy",
    ("GET", "lifecycle"): "s3:GetLifecycleConfiguration",
    ("GET", "versions"): "s3:ListBucketVersions",
    ("GET", "uploads"): "s3:ListBucketMultipartUploads",
}
_OF_OBJECTS = {"PUT": "s3:PutObject", "POST": "s3:PutObject", "GET": "s3:GetObject", "HEAD": "s3:GetObject"}
_CONTEXT = "kms:EncryptionContext:"
_CONDITIONS = ("if-none-match", "if-match", "x-amz-server-side-encryption")  # headers that are condition keys


@dataclass(frozen=True)
class Asked:
    """One action on one resource; `values` of condition keys that are known of the request."""

    action: str
    resource: str
    values: Mapping[str, str]


def what_is_asked(seen: Seen) -> list[Asked]:
    """The actions that S3 or KMS would check. Fails for a request it does not know."""
    if target := seen.headers.get("x-amz-target"):
        return [_kms(seen, target.removeprefix("TrentService."), json.loads(seen.body))]
    bucket, _, key = seen.path.lstrip("/").partition("/")
    query = {name: values[0] for name, values in parse_qs(seen.query, keep_blank_values=True).items()}
    return list(_s3(seen, bucket, key, query))


def _kms(seen: Seen, verb: str, fields: Mapping[str, Any]) -> Asked:
    region = seen.headers["authorization"].split("/")[2]
    key_id = str(fields.get("KeyId", ""))
    resource = key_id if key_id.startswith("arn:") else f"arn:aws:kms:{region}:123456789012:key/KEY_ID"
    context = {f"{_CONTEXT}{name}": value for name, value in (fields.get("EncryptionContext") or {}).items()}
    return Asked(f"kms:{verb}", resource, context)


def _s3(seen: Seen, bucket: str, key: str, query: Mapping[str, str]) -> Iterator[Asked]:
    arn = f"arn:aws:s3:::{bucket}"
    if not key:
        values = {"s3:prefix": query["prefix"]} if "prefix" in query else {}
        if seen.method == "POST" and "delete" in query:
            for name, version in _deleted(seen.body):
                yield Asked("s3:DeleteObjectVersion" if version else "s3:DeleteObject", f"{arn}/{name}", {})
            return
        actions = [
            action for (method, name), action in _SUBRESOURCES.items() if method == seen.method and name in query
        ]
        if seen.method == "HEAD" or (seen.method == "GET" and not actions):
            actions = ["s3:ListBucket"]
        assert actions, f"an unknown request: {seen.method} {seen.path}?{seen.query}"
        yield Asked(actions[0], arn, values)
        return
    resource = f"{arn}/{key}"
    sent = {f"s3:{name}": seen.headers[name] for name in _CONDITIONS if name in seen.headers}
    creates = (seen.method == "PUT" and "partNumber" not in query) or (seen.method == "POST" and "uploadId" in query)
    sent["s3:ObjectCreationOperation"] = "true" if creates else "false"
    if seen.method == "DELETE":
        version = "s3:DeleteObjectVersion" if "versionId" in query else "s3:DeleteObject"
        yield Asked("s3:AbortMultipartUpload" if "uploadId" in query else version, resource, {})
        return
    if seen.method == "GET" and "tagging" in query:
        yield Asked("s3:GetObjectVersionTagging" if "versionId" in query else "s3:GetObjectTagging", resource, {})
        return
    if "retention" in query:
        yield Asked("s3:PutObjectRetention" if seen.method == "PUT" else "s3:GetObjectRetention", resource, {})
        return
    assert not set(query) - {"uploads", "partNumber", "uploadId", "versionId", "x-id"}, f"unknown: {seen.query}"
    action = _OF_OBJECTS[seen.method]
    yield Asked("s3:GetObjectVersion" if action == "s3:GetObject" and "versionId" in query else action, resource, sent)
    if "x-amz-tagging" in seen.headers:
        yield Asked("s3:PutObjectTagging", resource, {})
    if "x-amz-object-lock-retain-until-date" in seen.headers:
        yield Asked("s3:PutObjectRetention", resource, {})


def _deleted(body: bytes) -> Iterator[tuple[str, str]]:
    for element in ElementTree.fromstring(body).iter():
        if element.tag.rpartition("}")[2] == "Object":
            fields = {child.tag.rpartition("}")[2]: child.text or "" for child in element}
            yield fields["Key"], fields.get("VersionId", "")


class Policy:
    """A role's policy of deploy/policies, its placeholders filled in, and the bucket's. `used`: what it was asked and allowed; `refused`: what it was not.

    A HEAD of a bucket is refused to all roles that may list below their prefixes only. The refusal tells the bucket's region, which
    is what it is asked for.
    """

    def __init__(self, name: str, caller: str = "", **filled: str) -> None:
        """`caller`: the role that has the policy, if it is not the one that is named after it."""
        self.statements = _statements(name, filled)
        self._bucket = [*_statements("bucket-policy", filled), *_statements("copy-bucket-policy", filled)]
        self._caller = {
            "aws:PrincipalArn": f"arn:aws:iam::{filled.get('ACCOUNT_ID')}:role/{caller or f'sbh-{name}'}",
            "aws:SecureTransport": "true",
            "s3:TlsVersion": "1.3",
        }
        self.homes: dict[str, str] = {}  # of buckets in another region than eu-west-1
        self.used: set[str] = set()
        self.refused: list[Asked] = []

    @property
    def allowed_actions(self) -> set[str]:
        return {a for s in self.statements if s["Effect"] == "Allow" for a in _list(s["Action"])}

    def allows(self, asked: Asked) -> bool:
        known = replace(asked, values={**self._caller, **asked.values})
        fitting = [s["Effect"] for s in (*self.statements, *self._bucket) if _fits(s, known)]
        good = "Allow" in fitting and "Deny" not in fitting
        if good:
            self.used.add(asked.action)
        elif asked.action != "s3:ListBucket" or asked.values:
            self.refused.append(asked)
        return good

    def judge(self, seen: Seen) -> Answer | None:
        """For a proxy: 403 for what is not allowed, as AWS words it; None lets the request through."""
        verdicts = [self.allows(asked) for asked in what_is_asked(seen)]  # of all of them: what is refused is noted
        if all(verdicts):
            return None
        if "x-amz-target" in seen.headers:
            return Answer(400, {"Content-Type": "application/x-amz-json-1.1"}, b'{"__type":"AccessDeniedException"}')
        home = self.homes.get(seen.path.lstrip("/").partition("/")[0], "eu-west-1")
        told = {"x-amz-bucket-region": home, "Content-Type": "application/xml"}
        return Answer(403, told, b"" if seen.method == "HEAD" else b"<Error><Code>AccessDenied</Code></Error>")


def _statements(name: str, filled: Mapping[str, str]) -> list[dict[str, Any]]:
    text = (FOLDER / f"{name}.json").read_text("utf-8")
    for placeholder, value in filled.items():
        text = text.replace(placeholder, value)
    found: list[dict[str, Any]] = json.loads(text)["Statement"]
    return found


def _fits(statement: Mapping[str, Any], asked: Asked) -> bool:
    if not any(fnmatchcase(asked.action, action) for action in _list(statement["Action"])):
        return False
    if not any(fnmatchcase(asked.resource, resource) for resource in _list(statement["Resource"])):
        return False
    return all(
        _holds(operator, key, _list(values), asked)
        for operator, bounds in (statement.get("Condition") or {}).items()
        for key, values in bounds.items()
    )


def _holds(operator: str, key: str, values: list[str], asked: Asked) -> bool:
    found = asked.values.get(key)
    if operator == "Null":
        return (found is None) == (values == ["true"])
    if operator == "NumericLessThan":
        return found is not None and any(float(found) < float(value) for value in values)
    if operator in ("ArnNotEquals", "StringNotEquals"):  # also where there is no such key
        return found not in values
    assert operator in ("StringLike", "StringEquals", "Bool"), operator
    return found is not None and any(fnmatchcase(found, value) for value in values)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
