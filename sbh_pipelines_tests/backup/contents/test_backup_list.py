"""What `listing.json` carries for the next backup: there and back, and each part by itself."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbh_pipelines.backup.contents.backup_list import LatestBackup, read_head_seen, read_latest
from sbh_pipelines.model import BackupId, RecoveryPoint
from sbh_pipelines.repository.documents import signed
from sbh_pipelines.repository.format import Keys
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application
from sbh_pipelines_tests.support.site import site_of

POINT = RecoveryPoint("2026-03-01T12:00:00.000000Z", "7:7:", "0/1", "7", 1, 180000, "shop")
IDS = st.binary(min_size=32, max_size=32)
ASCII = st.text(st.characters(max_codepoint=127), max_size=99).map(str.encode)


@given(chunks=st.dictionaries(IDS, ASCII | st.binary(max_size=99)), index=st.dictionaries(ASCII.map(bytes.decode), IDS))
def test_chunks_come_back_as_they_were(chunks: Mapping[bytes, bytes], index: Mapping[str, bytes]) -> None:
    """Lines with control characters, sums, and sums that happen to be ASCII."""
    latest = LatestBackup(BackupId("backup_1"), "etag", POINT.time, POINT, {}, frozenset("p"), index, chunks)
    assert LatestBackup.from_dict(json.loads(json.dumps(latest.as_dict()))) == latest


@pytest.mark.parametrize("how", ["of an earlier release", "damaged"])
def test_what_cannot_be_read_of_a_backup_does_not_hide_the_head(application: Application, how: str) -> None:
    """And the next backup reads the manifest, and builds on that."""
    service, tenant = application.service(), application.tenant()
    made = service.backups.create(ACME, ADMIN)
    with site_of(service).repository(tenant) as repository:
        repository.load_index()
        latest, head = read_latest(repository), read_head_seen(repository)
        assert latest is not None
        assert head is not None
        said: dict[str, object] = latest.as_dict() | {"lines": {"": 1}}
        if how == "of an earlier release":
            said = {name: value for name, value in said.items() if name not in ("lines", "sums", "entries")}
            said |= {"index": {}, "chunks": {}}
        private = {"latest": said, "head": head.as_dict()}
        body = signed(repository, "listing", {"backups": []}, Keys.LISTING, private)
        repository.store.put(repository.prefix + Keys.LISTING, body)
    with site_of(service).repository(tenant) as repository:
        repository.load_index()
        assert (read_latest(repository), read_head_seen(repository)) == (None, head)
    application.wreck(ACME)
    assert service.create_backup(ACME, ADMIN, "incremental")["parent"] == made.id
