"""Whatever the order of the log and of what shows: a fence that is said to lie behind a snapshot lies behind all that it shows."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from sbh_pipelines.backup.journal.window.horizon import Horizon
from sbh_pipelines.backup.journal.window.snapshot import Snapshot
from sbh_pipelines.repository.journal.segments.directory import FencePoint


@dataclass
class Server:
    """Transactions that get an id, a place in the log, and show, in steps of their own; of fences one at a time."""

    next_xid: int = 1000
    log: list[int] = field(default_factory=list)
    flushed: int = 1
    running: list[int] = field(default_factory=list)
    hidden: list[int] = field(default_factory=list)
    fences: list[FencePoint] = field(default_factory=list)
    fence: int = 0  # that which runs, or is hidden
    before: int = 0

    def begin(self) -> int:
        self.running.append(self.next_xid)
        self.next_xid += 1
        return self.running[-1]

    def commit(self, xid: int) -> None:
        self.running.remove(xid)
        self.log.append(xid)
        self.hidden.append(xid)

    def begin_fence(self) -> None:
        if not self.fence:
            self.before, self.fence = self.flushed, self.begin()

    def end_fence(self) -> None:
        if self.fence in self.hidden:
            self.hidden.remove(self.fence)
            self.flushed = 1 + len(self.log)
            self.fences.append(FencePoint(self.fence, self.before, self.log.index(self.fence) + 2, 0))
            self.fence = 0

    def snapshot(self) -> tuple[Snapshot, int, set[int]]:
        """It, up to where the log is written, and all that it shows."""
        unseen = sorted(self.running + self.hidden)
        ended = [xid for xid in self.log if xid not in self.hidden]
        xmax = max(ended, default=999) + 1
        running = frozenset(xid for xid in unseen if xid < xmax)
        return Snapshot(min(running, default=xmax), xmax, running), 1 + len(self.log), set(ended)


STEPS = st.sampled_from(("begin", "commit", "show", "flush", "fence", "fence_commit", "fence_end", "snapshot"))


@given(st.lists(STEPS, max_size=60), st.booleans(), st.randoms(use_true_random=False))
def test_a_fence_behind_a_snapshot_is_behind_all_that_it_shows(steps: list[str], says: bool, random: object) -> None:
    """`says`: whether the server says how far its log is written."""
    choose = random.choice  # type: ignore[attr-defined]
    server, taken = Server(), []
    for step in steps:
        others = [xid for xid in server.running if xid != server.fence]
        hidden = [xid for xid in server.hidden if xid != server.fence]
        if step == "begin":
            server.begin()
        elif step == "commit" and others:
            server.commit(choose(others))
        elif step == "show" and hidden:
            server.hidden.remove(choose(hidden))
        elif step == "flush":
            server.flushed = 1 + len(server.log)
        elif step == "fence":
            server.begin_fence()
        elif step == "fence_commit" and server.fence in server.running:
            server.commit(server.fence)
        elif step == "fence_end":
            server.end_fence()
        elif step == "snapshot":
            taken.append(server.snapshot())
    for snapshot, written, shown in taken:
        horizon = Horizon(snapshot, written if says else 0)
        for fence in server.fences:
            if horizon.is_before(fence):
                assert all(server.log.index(xid) < server.log.index(fence.xid) for xid in shown)


def test_a_fence_whose_commit_waited_for_the_disk_is_not_behind_what_showed_meanwhile() -> None:
    """The next one is; and so is the first of which the log says that it began later."""
    snapshot = Snapshot(1000, 1002, frozenset({1000}))  # 1001 shows, and was logged behind the fence 1000
    behind = Snapshot(1001, 1001, frozenset())
    horizon = Horizon(snapshot, 50)
    assert not horizon.is_before(FencePoint(1000, 40, 45, 0))
    assert not Horizon(behind, 50).is_before(FencePoint(1001, 50, 55, 0))
    assert Horizon(behind, 50).is_before(FencePoint(1001, 51, 55, 0))
    assert not horizon.is_before(FencePoint(1002, 50, 55, 0))
    assert horizon.is_before(FencePoint(1003, 50, 60, 0))
