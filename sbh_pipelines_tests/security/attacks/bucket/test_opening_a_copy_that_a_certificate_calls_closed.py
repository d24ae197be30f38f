"""Who copied the bucket before the keys were wrapped anew wants to open that copy after an erasure whose certificate says that nothing can.

The certificate names every key that ever wrapped the tenant's data keys, from the audit trail and from older versions of the key objects, and says what it does not know.
"""

import base64
import json
import os
from pathlib import Path

import pytest

from sbh_pipelines.backup.keys.certificate import DestroyedKmsKey, what_copies_open
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.document import as_document
from sbh_pipelines.repository.catalog.erased import ErasedKey, FormerWrapping
from sbh_pipelines.security.keys import LocalKeyFile
from sbh_pipelines_tests.security.attacks.bucket.conftest import Hands
from sbh_pipelines_tests.support.application import ACME, ADMIN

OWN = "arn:aws:kms:eu-west-1:1:key/own"
SHARED = "arn:aws:kms:eu-west-1:1:key/shared"


@pytest.fixture
def files(hands: Hands) -> list[Path]:
    """Two key files, the first one older."""
    made = [hands.application.directory / name for name in ("old.key", "new.key")]
    for file in made:
        file.write_bytes(base64.b64encode(os.urandom(32)))
    return made


def rotated(hands: Hands, files: list[Path]) -> tuple[BackupService, dict[str, bytes]]:
    """Backed up under the old key file, copied, wrapped anew with the new one."""
    old, new = files
    hands.service(keys={"key_file": old}).backups.create(ACME, ADMIN)
    copy = hands.copy(hands.key("keys/"))
    service = hands.service(keys={"key_file": new, "previous_key_files": [old]})
    service.keys.rotate([ACME], ADMIN, everyone=True)
    return hands.service(keys={"key_file": new}), copy


def test_the_certificate_names_the_key_that_opens_the_copy(hands: Hands, files: list[Path]) -> None:
    service, copy = rotated(hands, files)
    certificate = service.keys.erase(ACME, ADMIN, confirm=ACME, reason="Article 17")
    (body,) = copy.values()
    stolen = json.loads(body)
    assert LocalKeyFile(files[0]).unwrap(stolen, ACME, "eu-west-1")  # the copy does open
    (former,) = certificate.destroyed.former_wrappings or ()
    assert former.key_id == stolen["key_id"]
    assert stolen["key_id"] in certificate.copies_made_before
    assert "not known" not in certificate.copies_made_before
    assert not certificate.copies_made_before.startswith("Nothing")
    words = "; ".join(certificate.kept_elsewhere or ())
    for place in ("live database", "schemas", "drills", "Dagster", "platform backups", "audit trail", "exports"):
        assert place in words
    public = service.keys.public(ADMIN)["eu-west-1"]
    service.keys.verify_certificate(as_document(certificate), public)
    assert as_document(service.keys.certificate(ACME, ADMIN)) == as_document(certificate)


def test_it_is_named_by_an_older_version_where_the_trail_is_gone(hands: Hands, files: list[Path]) -> None:
    """And that the trail does not tell is said."""
    service, copy = rotated(hands, files)
    for key in hands.keys(hands.key("audit/")):
        hands.delete(key)
    hands.delete(f"{hands.mark}-catalog/audit/eu-west-1/heads/{ACME}.json")
    certificate = service.keys.erase(ACME, ADMIN, confirm=ACME, reason="Article 17")
    (former,) = certificate.destroyed.former_wrappings or ()
    (body,) = copy.values()
    assert (former.key_id, former.known_from) == (json.loads(body)["key_id"], "older version")
    assert "does not reach back to the making of the first key" in certificate.copies_made_before


@pytest.mark.parametrize(
    ("former", "doubts", "begins", "says"),
    [
        ([], [], "Nothing", "deletion of the tenant's own KMS key"),
        ([FormerWrapping(OWN, 1, "audit trail")], [], "Nothing", "deletion"),
        ([FormerWrapping(SHARED, 1, "audit trail")], [], "Who has a copy", f"has a wrapping by {SHARED}"),
        ([FormerWrapping("local-0123abcd", 1, "older version")], [], "Who has a copy", "the key file (local-0123abcd)"),
        ([], ["the audit trail is damaged"], "Nothing", "is not known: the audit trail is damaged"),
    ],
)
def test_a_key_of_the_tenants_own_speaks_for_itself_only(
    former: list[FormerWrapping], doubts: list[str], begins: str, says: str
) -> None:
    """Wrapped by a shared key first, and by the tenant's own since: only the second is destroyed."""
    keys = [ErasedKey("", 1, "eu-west-1", "aws-kms", OWN)]
    words = what_copies_open(keys, [DestroyedKmsKey(OWN, "2026-01-01T00:00:00Z")], ACME, former, doubts)
    assert words.startswith(begins)
    assert says in words
