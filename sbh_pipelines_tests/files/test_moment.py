"""Files at a moment: from versions told to it, against a model, and from a real server against what was there."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbh_pipelines.document import as_document
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import StoreDenied, StoreError, StoreUnavailable
from sbh_pipelines.files.moment import Doubt, FileSource, MomentFiles, MomentListing, Window
from sbh_pipelines.stores.base import ObjectInfo
from sbh_pipelines.stores.versions import IncompleteVersions, ObjectVersion, OpenUpload
from sbh_pipelines_tests.support.versioned import apart, versioned_bucket

__all__ = ["apart"]  # a fixture, made elsewhere

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def put(key: str, seconds: float, version: str = "", *, current: bool = False, size: int = 1) -> ObjectVersion:
    return ObjectVersion(key, version or f"v{seconds}", at(seconds), current, size, f'"{version or abs(seconds)}"')


def deleted(key: str, seconds: float, *, current: bool = False) -> ObjectVersion:
    return ObjectVersion(key, f"d{seconds}", at(seconds), current, None)


class Past:
    """A bucket that has these versions, and now these objects."""

    def __init__(self, versions: Sequence[ObjectVersion], now: Sequence[ObjectInfo] = (), late: Any = ()) -> None:
        self.told, self.now, self.late = list(versions), list(now), list(late)
        self.uploads: list[OpenUpload] = []

    def versions(self, prefix: str, skip: Sequence[str] = ()) -> Iterator[ObjectVersion]:
        told = self.told if prefix == "p/" else self.told + self.late
        return (version for version in told if version.key.startswith(prefix))

    def open_uploads(self, prefix: str) -> Iterator[OpenUpload]:
        return iter(self.uploads)

    lists_all = True

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter([replace(info, key=info.key.removesuffix("/")) for info in self.now])

    def list_exactly(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter(self.now)

    def url(self, key: str) -> str:
        return key


def listing(past: Any, moment: datetime, *exclude: str) -> MomentListing:
    return MomentListing(past, past, "p/", moment, exclude)


def files(past: Any, moment: datetime, *exclude: str) -> dict[str, str | None]:
    """Key -> version, in the order of the listing."""
    with listing(past, moment, *exclude) as found:
        return {info.key: info.version for info in found}


def doubts(past: Any, moment: datetime) -> dict[str, str]:
    with listing(past, moment) as found:
        facts = found.facts(None, at(1e6))
        assert facts.doubt_count == len(facts.doubts)
        return {doubt.key: doubt.why for doubt in facts.doubts}


def test_the_newest_that_is_not_later() -> None:
    past = Past([put("p/a", 20, current=True), put("p/a", 10), put("p/a", 0)])
    assert [files(past, at(t)) for t in (-1, 0, 9, 10, 25)] == [
        {},
        {"p/a": "v0"},
        {"p/a": "v0"},
        {"p/a": "v10"},
        {"p/a": "v20"},
    ]


def test_a_deleted_file_is_not_there_until_it_is_put_again() -> None:
    past = Past([put("p/a", 40, current=True), deleted("p/a", 20), put("p/a", 0)])
    assert [files(past, at(t)) for t in (10, 30, 50)] == [{"p/a": "v0"}, {}, {"p/a": "v40"}]


def test_what_is_no_file_is_left_out() -> None:
    """Folders' markers, excluded prefixes; and files come in the order of bytes, with what a listing tells of them."""
    past = Past(
        [put("p/é", 0), put("p/b", 0), put("p/folder/", 0, size=0), put("p/backups/x", 0), put("p/empty", 0, size=0)]
    )
    assert list(files(past, at(5), "backups/")) == ["p/b", "p/empty", "p/é"]
    with listing(past, at(5), "backups/") as found:
        assert next(iter(found)) == ObjectInfo("p/b", 1, '"0"', at(0), "v0")


def test_of_two_in_one_second_the_current_or_the_first_listed_is_the_newer() -> None:
    past = Past([put("p/a", 0, "new"), put("p/a", 0, "old"), deleted("p/b", 0, current=True), put("p/b", 0, "gone")])
    assert files(past, at(5)) == {"p/a": "new"}
    unknown = Past([put("p/c", 9, current=True), put("p/c", 0, "there"), deleted("p/c", 0)])
    assert files(unknown, at(5)) == {"p/c": "there"}
    assert "same second" in doubts(unknown, at(5))["p/c"]
    assert doubts(unknown, at(20)) == {}


def test_what_is_close_to_the_moment_is_doubted() -> None:
    past = Past([put(f"p/{t}", t) for t in (-3, -2, 0, 1, 2, 3)])
    assert sorted(doubts(past, at(0))) == ["p/-2", "p/0", "p/1", "p/2"]
    assert list(doubts(Past([deleted("p/a", 1), put("p/a", -99)]), at(0))) == ["p/a"]


def test_an_upload_in_parts_that_was_begun_before() -> None:
    """Completed since, or not yet: which it was at the moment is not told."""
    parts = ObjectVersion("p/big", "v", at(-600), True, 9, '"abc-2"')
    long_ago = ObjectVersion("p/old", "v", at(-9000), True, 9, '"abc-2"')
    past = Past([parts, long_ago])
    past.uploads = [OpenUpload("p/open", at(-600)), OpenUpload("p/later", at(600)), OpenUpload("p/backups/x", at(-600))]
    assert "in parts" in doubts(past, at(0))["p/big"]
    assert list(doubts(past, at(0))) == ["p/big"]
    with listing(past, at(0), "backups/") as found:
        assert found.facts(None, at(0)).uploads == ("p/open",)


def test_uploads_that_may_not_be_listed() -> None:
    """It is said; an error that may go away is raised."""
    past = Past([put("p/a", -60)])

    def refuse(error: StoreError) -> MomentFiles:
        with pytest.MonkeyPatch.context() as patch, listing(past, at(0)) as found:
            patch.setattr(past, "open_uploads", lambda _: (_ for _ in ()).throw(error))
            return found.facts(None, at(0)).explained("and more")

    assert refuse(StoreDenied("No", why="policy")).why == (
        "uploads that were not completed cannot be listed: policy; and more"
    )
    with pytest.raises(StoreUnavailable):
        refuse(StoreUnavailable("Not now"))


def test_a_listing_that_lacks_what_is_there_is_refused() -> None:
    """Unless it was put while the versions were listed."""
    there = [ObjectInfo("p/a", 1, '"0"', at(0))]
    with pytest.raises(IncompleteVersions, match="no version of it"):
        files(Past([], there), at(5))
    with pytest.raises(IncompleteVersions):
        files(Past([], there, late=[put("p/a", 90), put("p/a", 0)]), at(5))
    assert files(Past([], there, late=[put("p/a", 90)]), at(5)) == {}


def test_a_name_that_a_quick_listing_shows_otherwise() -> None:
    """It is looked for again in the exact one."""
    odd = ObjectInfo("p/odd/", 1, '"0"', at(0))
    assert files(Past([put("p/odd/", 0)], [odd]), at(5)) == {"p/odd/": "v0"}
    with pytest.raises(IncompleteVersions):
        files(Past([put("p/other", 0)], [odd]), at(5))


def test_since_when_versions_are_kept() -> None:
    """From the first that has an id, and no longer where `null` was put after it."""

    def since(*versions: ObjectVersion, days: int | None = None) -> datetime | None:
        window = Window()
        for version in versions:
            window.saw(version)
        return window.begin(days, at(10 * 86400))

    null = [put("p/a", seconds, "null") for seconds in (-9000, 9000)]
    assert since() is None
    assert since(null[0]) is None
    assert since(put("p/a", 50), put("p/a", 0), null[0]) == at(0)
    assert since(put("p/a", 20_000), put("p/a", 0), null[1]) == at(20_000)
    assert since(put("p/a", 0), null[1]) is None
    assert since(put("p/a", 0), days=3) == at(7 * 86400)
    assert since(put("p/a", 9 * 86400), days=3) == at(9 * 86400)


def test_the_facts_are_a_document() -> None:
    facts = MomentFiles(FileSource.VERSIONS, NOON, "said", (Doubt("p/a", "so"),), 1, ("p/open",), None, at(-60))
    assert MomentFiles.from_dict(as_document(facts)) == facts
    of_backup = MomentFiles(FileSource.BACKUP, NOON, backup="backup_20260301_1200")
    assert MomentFiles.from_dict(as_document(of_backup)) == of_backup
    assert [d.key for d in facts.doubted([Doubt("p/A", "why")], 5).doubts] == ["p/A", "p/a"]
    assert facts.doubted([], 5).doubt_count == 6


CHANGES = st.lists(st.tuples(st.sampled_from(["p/a", "p/a-b", "p/a/b", "p/é"]), st.booleans()), max_size=30)


@given(changes=CHANGES, moment=st.integers(-1, 31), shuffle=st.randoms(use_true_random=False))
def test_any_history_in_any_order(changes: list[tuple[str, bool]], moment: int, shuffle: random.Random) -> None:
    """One change a second; of each key what the last until the moment left."""
    wanted: dict[str, str] = {}
    versions = []
    for second, (key, puts) in enumerate(changes):
        current = not any(later == key for later, _ in changes[second + 1 :])
        versions.append(put(key, second, current=current) if puts else deleted(key, second, current=current))
        if second <= moment:
            wanted.pop(key, None)
            if puts:
                wanted[key] = f"v{second}"
    shuffle.shuffle(versions)
    found = files(Past(versions), at(moment))
    assert found == wanted
    assert list(found) == sorted(found, key=str.encode)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_real_bucket_as_it_was(embedded_stack: Stack, seed: int, apart: Callable[[], datetime]) -> None:
    """Puts and deletes at random, with moments between that are apart from them: every one gives what was there."""
    chance = random.Random(seed)
    with versioned_bucket(embedded_stack) as bucket:
        bucket.put("p/before", b"before versions")
        bucket.keep_versions()
        time.sleep(1.1)  # it has another second than the first version
        state = {"p/before": b"before versions"}
        states: list[tuple[datetime, dict[str, bytes]]] = []
        names = ["p/before", "p/a", "p/a-1", "p/a/b", "p/a.pdf", "p/é", "p/backups/x"]
        for _ in range(4):
            for n in range(12):
                key, body = chance.choice(names), b"%d of %d" % (n, len(states))
                if chance.random() < 0.35:
                    bucket.delete(key)
                    state.pop(key, None)
                else:
                    bucket.put(key, body)
                    state[key] = body
            states.append((apart(), {key: body for key, body in state.items() if "backups" not in key}))
        store = bucket.store()
        for page in (3, 1000):
            for moment, wanted in states:
                with MomentListing(bucket.versions(page), store, "p/", moment, ["backups/"]) as found:
                    read = {i.key: b"".join(map(bytes, store.stream(i.key, version=i.version)[1])) for i in found}
                    facts = found.facts(None, datetime.now(UTC))
                unsure = {doubt.key for doubt in facts.doubts}
                assert {k: v for k, v in read.items() if k not in unsure} == {
                    k: v for k, v in wanted.items() if k not in unsure
                }
                assert all("same second" in doubt.why for doubt in facts.doubts)
                assert len(unsure) < 3
                assert facts.window_from is not None
                assert facts.window_from <= moment
