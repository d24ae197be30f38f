"""Who has a tenant's data key, and may write to the bucket, wants the newest events of its audit trail gone unseen.

What the next backup is told of the trail's end lies in `listing.json`, which that key seals. The end in it is signed by the catalog's.
"""

from dataclasses import replace

import pytest

from sbh_pipelines.backup.contents.backup_list import read_head_seen
from sbh_pipelines.backup.create import conditional_puts
from sbh_pipelines.repository.documents import signed
from sbh_pipelines.repository.format import Keys
from sbh_pipelines_tests.security.attacks.bucket.conftest import Hands
from sbh_pipelines_tests.support.application import ACME, ADMIN
from sbh_pipelines_tests.support.site import site_of


def test_an_earlier_end_that_is_told_of_the_newest_head(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditional_puts, "is_aws", lambda *_: True)
    service, ends = hands.service(), []
    for _ in range(2):
        service.backups.create(ACME, ADMIN)
        with site_of(service).repository(hands.application.tenant()) as repository:
            repository.load_index()
            ends.append(read_head_seen(repository))
    early, late = ends
    assert early is not None
    assert late is not None
    forged = replace(early, etag=late.etag)
    body = signed(repository, "listing", {"backups": []}, Keys.LISTING, {"head": forged.as_dict()})
    hands.put(hands.key(Keys.LISTING), body)
    links = hands.keys(hands.key(Keys.AUDIT))
    for link in links[early.end.link :]:
        hands.delete(link)
    hands.service().backups.create(ACME, ADMIN)
    what = {issue.what for issue in hands.service().audit.verify(ADMIN, ACME).issues}
    assert "Objects of the audit trail are missing" in what
