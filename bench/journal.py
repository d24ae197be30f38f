"""What the change journal costs: the drain, the application meanwhile, the store; and what it takes to recover a moment with it.

First an application's load, single rows in transactions of their own, as many as there are clients for: without a journal, with one
that is not drained meanwhile, with one that is, and with `wal_level = replica`, where there can be none; in turn, round by round.
Then a day's changes of all tenants, in a few large transactions, each drained: changes a second, bytes that are kept. In the end
one tenant loses all its rows. Once it is recovered to the moment before from a backup from before that day and the journal, once
restored from a backup of just that moment. Both times its rows must be as before.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import _common as common
import _journal_load as load
import psycopg2
from _changes import TABLES, Parts, change
from _common import Measured, console

from sbh_pipelines.embedded.servers import object_server
from sbh_pipelines.embedded.servers.stack import Stack

_BUCKET = "bench-sbh-{region}"
_BUCKETS = [_BUCKET.replace("{region}", region) for region in object_server.REGIONS]
_SMALL = 0.03
_PASSES = 8  # a day's
_PARTS = Parts(updated=0.0125, deleted=0.00125, inserted=0.0125)
_SLUG, _TENANT = "tenant-1", 1
_LOADS = ("replica", "off", "undrained", "drained")


def main() -> None:
    args = common.arguments(__doc__, repeat=3, transactions=100_000)
    transactions = min(args.transactions, 6_000) if args.small else args.transactions
    with common.running_stack(args.keep) as servers, common.buckets(servers, _BUCKETS, versioned=True):
        rows = common.fill_fleet(servers, tenants=50 if args.small else 200, scale=_SMALL if args.small else 1.0)
        bench = _Journal(servers, every=1 if args.small else 5)
        bench.back_up()  # whoever has no backup has no key that changes could be sealed to
        for nth in range(args.repeat):
            bench.application(transactions, nth)
        bench.begin()
        for _ in range(3 if args.small else _PASSES):
            bench.a_part_of_the_day()
        bench.recover()
    _report(sum(rows.values()), transactions, bench)


class _Journal:
    """All measurements on one stack; `every`: seconds between drains beside a load."""

    def __init__(self, servers: Stack, *, every: int) -> None:
        self._servers, self._every = servers, every
        self.loads: dict[str, list[Measured]] = {name: [] for name in _LOADS}
        self.held: list[int] = []
        self.beside: list[dict[str, Any]] = []
        self.after: list[dict[str, Any]] = []
        self.drains: list[Measured] = []
        self.recovery: Measured | None = None
        self.restore: Measured | None = None

    # the application

    def application(self, transactions: int, nth: int) -> None:
        """Each load once; who comes first changes from round to round."""
        order = _LOADS[nth % len(_LOADS) :] + _LOADS[: nth % len(_LOADS)]
        for at, name in enumerate(order):
            self.loads[name].append(getattr(self, f"_{name}")(transactions, len(order) * nth + at + 1))

    def _replica(self, transactions: int, seed: int) -> Measured:
        load.without_journal(self._servers)
        with load.wal_level(self._servers, "replica"):
            return load.run_load(self._servers, transactions, seed)

    def _off(self, transactions: int, seed: int) -> Measured:
        load.without_journal(self._servers)
        return load.run_load(self._servers, transactions, seed)

    def _undrained(self, transactions: int, seed: int) -> Measured:
        self._do("setup")
        made = load.run_load(self._servers, transactions, seed)
        self.after.append(self._do("drain").answer())
        return made

    def _drained(self, transactions: int, seed: int) -> Measured:
        self._do("setup")
        found: dict[str, Any] = {}
        request = {**self._request("loop"), "every": self._every}
        with load.watch_slot(self._servers) as held, load.drains_beside(request, found):
            made = load.run_load(self._servers, transactions, seed)
        self.held.append(held.most)
        self.beside.append(found)
        return made

    # a day, and the way back

    def begin(self) -> None:
        """The journal begins, and the tenant has a backup."""
        self._do("setup")
        self.back_up(_SLUG)

    def a_part_of_the_day(self) -> None:
        made = change(self._servers, _PARTS)
        found = self._do("drain")
        answer = found.answer()
        expected = made.updated + made.deleted + made.inserted
        if answer["changes"] != expected or answer["events"] or answer["gap"]:
            raise SystemExit(f"{expected:,} rows were changed, and the drain told of: {answer}")
        self.drains.append(found)

    def recover(self) -> None:
        rows, moment = self._rows(), self._now()
        time.sleep(0.1)
        self._lose()
        self._do("drain")
        self.recovery = self._measured("recover", tenant=_SLUG, moment=moment)
        self._expect(rows, "recovered")
        self.back_up(_SLUG)
        self._lose()
        request = {**self._request(), "tenant": _SLUG, "backup": "latest", "tables": []}
        found = common.run(common.python("_restore_client.py", request), servers=common.server_pids(self._servers))
        self.restore = load.without_start(found, found.answer()["seconds"])
        self._expect(rows, "restored")

    def back_up(self, *slugs: str) -> None:
        """Full backups, of all tenants where none is named."""
        request = {**self._request(), "tenants": list(slugs), "type": "full"}
        common.run(common.python("_client.py", request), servers={})

    def _lose(self) -> None:
        with closing(psycopg2.connect(self._servers.dsn())) as connection:
            with connection, connection.cursor() as cursor:
                for table in TABLES:
                    cursor.execute(f"DELETE FROM {table} WHERE tenant_id = {_TENANT}")
            connection.autocommit = True
            connection.cursor().execute(f"VACUUM (ANALYZE) {', '.join(TABLES)}")
        common.checkpoint(self._servers)

    def _rows(self) -> list[tuple[int, Any]]:
        """Of each table how many rows the tenant has, and a hash of them."""
        found = []
        with closing(psycopg2.connect(self._servers.dsn())) as connection, connection.cursor() as cursor:
            for table in TABLES:
                cursor.execute(
                    f"SELECT count(*), bit_xor(hashtextextended(t::text, 0)) FROM {table} t WHERE tenant_id = {_TENANT}"
                )
                found.append(cursor.fetchone())
        return found

    def _expect(self, rows: list[tuple[int, Any]], what: str) -> None:
        if self._rows() != rows:
            raise SystemExit(f"{what}: the rows are not as they were before they were lost")

    def _now(self) -> str:
        with closing(psycopg2.connect(self._servers.dsn())) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp()")
            return str(cursor.fetchone()[0].isoformat())

    def _do(self, what: str) -> Measured:
        return self._measured(what)

    def _measured(self, what: str, **more: str) -> Measured:
        command = common.python("_journal_client.py", {**self._request(what), **more})
        found = common.run(command, servers=common.server_pids(self._servers))
        return load.without_start(found, found.answer()["seconds"])

    def _request(self, what: str = "") -> dict[str, Any]:
        changed = {"storage": {"bucket": _BUCKET}, "journal": {"enabled": True}, "restore": {"safety_backup": False}}
        return {"settings": str(self._servers.settings), "set": changed, "do": what}


def _report(rows: int, transactions: int, bench: _Journal) -> None:
    assert bench.recovery is not None
    assert bench.restore is not None
    loads = {name: common.summary(found) for name, found in bench.loads.items()}
    figures: dict[str, Any] = {"rows": rows, "transactions": transactions, **{f"load_{n}": f for n, f in loads.items()}}
    figures["drain"] = {**common.summary(bench.drains), **_drained([one.answer() for one in bench.drains])}
    figures["drain_of_small_transactions"] = _drained(bench.after)
    figures["drains_beside"] = {**_drained(bench.beside), "drains": sum(one["drains"] for one in bench.beside)}
    figures["wal_held_mb"] = round(max(bench.held) / 1e6, 1)
    for name, found in {"recovery": bench.recovery, "restore": bench.restore}.items():
        figures[name] = {**found.answer(), **common.summary([found])}
    common.show(
        f"{transactions:,} transactions of one row each, {rows:,} rows; median of {len(bench.held)}",
        ["", *loads],
        [
            *common.contender_rows(loads),
            ["transactions/s", *(round(transactions / found["wall_s"]) for found in loads.values())],
        ],
    )
    names = ("drain", "drain_of_small_transactions", "drains_beside")
    common.show(
        "Drains",
        ["", "large transactions", "small ones", "small ones, beside the load"],
        [
            [title, *(figures[name][key] for name in names)]
            for title, key in {
                "changes": "changes",
                "transactions": "transactions",
                "wall, s": "seconds",
                "CPU of the client, s": "client_s",
                "changes/s": "changes_per_s",
                "bytes kept a change": "bytes_per_change",
            }.items()
        ],
    )
    back = {name: figures[name] for name in ("recovery", "restore")}
    common.show(
        f"All {figures['recovery']['rows_inserted']:,} rows of a tenant put back",
        ["", *back],
        common.contender_rows(back),
    )
    console.print(
        f"Put together in {figures['recovery']['materialise_s']} s, restored in {figures['recovery']['restore_s']} s;"
        f" at most {figures['wal_held_mb']} MB of the log were held."
    )
    common.finish("journal", figures, _ratios(figures))


def _drained(drains: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = {key: sum(one[key] for one in drains) for key in ("transactions", "changes", "stored_bytes")}
    seconds = sum(one["drain_s"] for one in drains)
    return {
        **found,
        "seconds": round(seconds, 2),
        "client_s": round(sum(one["cpu_s"] for one in drains), 2),
        "changes_per_s": round(found["changes"] / seconds),
        "bytes_per_change": round(found["stored_bytes"] / max(1, found["changes"]), 1),
    }


def _ratios(figures: Mapping[str, Any]) -> dict[str, float]:
    off = figures["load_off"]
    drain, small = figures["drain"], figures["drain_of_small_transactions"]
    ratios: dict[str, float] = {
        "changes_per_s": drain["changes_per_s"],
        "small_transactions_changes_per_s": small["changes_per_s"],
        "application_slowdown": common.ratio(figures["load_drained"]["wall_s"], off["wall_s"]),
        "application_slowdown_undrained": common.ratio(figures["load_undrained"]["wall_s"], off["wall_s"]),
        "application_cpu_undrained": common.ratio(
            figures["load_undrained"]["cpu_s"]["postgresql"], off["cpu_s"]["postgresql"]
        ),
        "logical_vs_replica": common.ratio(off["wall_s"], figures["load_replica"]["wall_s"]),
        "wal_held_mb": figures["wal_held_mb"],
        "bytes_per_change": drain["bytes_per_change"],
        "recovery_vs_restore": common.ratio(figures["recovery"]["wall_s"], figures["restore"]["wall_s"]),
        "recovery_cpu_vs_restore": common.ratio(figures["recovery"]["cpu_total_s"], figures["restore"]["cpu_total_s"]),
    }
    return ratios


if __name__ == "__main__":
    main()
