"""What a recovery makes of foreign keys that do not hold: which are to be expected, and what to say of the others."""

from collections.abc import Sequence
from dataclasses import dataclass

from sbh_pipelines.backup.recover.platform_backup import OpenPlatformBackup
from sbh_pipelines.database.rebuild.broken_keys import TENANTS, BrokenKey, look_at
from sbh_pipelines.database.rebuild.left_out import LeftOut
from sbh_pipelines.database.rebuild.load import missing_keys
from sbh_pipelines.database.rebuild.run import Run, run
from sbh_pipelines.errors import ReferencesBroken, SbhError, SourceError

_NAMED = 5


@dataclass(frozen=True, slots=True)
class References:
    """The foreign keys of a rebuilt database, after they were validated.

    Attributes:
        broken: Those that do not hold, and should.
        expected: Those that only rows of shared tables and of nobody break, which refer to tenants that were not asked for.
        issues: What kept a key from being added.
        impossible: Keys to tables that the target's role could not make.
    """

    broken: Sequence[BrokenKey]
    expected: Sequence[BrokenKey]
    issues: Sequence[SbhError]
    impossible: Sequence[LeftOut] = ()

    @property
    def left_out(self) -> list[LeftOut]:
        return [*self.impossible, *self._of_others()]

    def _of_others(self) -> list[LeftOut]:
        return [
            LeftOut(
                f"FOREIGN KEY {one.name}",
                f"not validated: {one.rows} {one.whose} rows refer to rows of {one.parent} of tenants that were not asked for",
            )
            for one in self.expected
        ]


def validate(control: Run, platform: OpenPlatformBackup, *, all_tenants: bool, owners: bool) -> References:
    """Validate or add the foreign keys that are wanting, and look at those that do not hold.

    `owners` False: for a role that may not make everything.
    """
    connection, issues, impossible = control.connection, list[SbhError](), dict[str, LeftOut]()
    for key in missing_keys(connection, platform.of("foreign_key")):
        try:
            run(connection, key.statement, "add a foreign key", key.table)
        except SourceError as error:
            if error.transient:
                raise
            if owners or key.there:
                issues.append(error)
            else:
                name = f"{key.table}: {key.name}"
                impossible[name] = LeftOut(f"FOREIGN KEY {name}", error.why)
        except SbhError:
            continue  # rows that it refers to are still missing
    tables, keys = platform.tables("table"), [tenant.facts.key for tenant in control.tenants()]
    known = {*tables, *platform.tables("shared_table")}
    found = [
        look_at(connection, key, tables.get(key.table), keys)
        for key in missing_keys(connection, platform.of("foreign_key"))
        # A table of no backup has no rows; in a throw-away database it may not even be there.
        if key.table in known and f"{key.table}: {key.name}" not in impossible
    ]
    expected = [one for one in found if not all_tenants and one.whose != TENANTS and one.parent in tables]
    broken = [one for one in found if one not in expected]
    return References(broken, expected, issues, list(impossible.values()))


def error_of(broken: Sequence[BrokenKey], platform: OpenPlatformBackup, *, stays: bool) -> ReferencesBroken | None:
    """What to say of them; None where there are none. `stays`: whether somebody can look into the database afterwards."""
    if not broken:
        return None
    told = [_told(one, platform, stays=stays) for one in broken]
    return ReferencesBroken(
        "Rows refer to rows that no backup brought back",
        on=", ".join(one.name for one in broken[:_NAMED]),
        why="; ".join(dict.fromkeys(why for why, _ in told[:_NAMED])),
        remedy="; ".join(dict.fromkeys(remedy for _, remedy in told[:_NAMED])),
    )


def _told(one: BrokenKey, platform: OpenPlatformBackup, *, stays: bool) -> tuple[str, str]:
    """Why a key does not hold, and what to do."""
    if not one.parent:
        return f"{one.name} could not be added", "see the issues of the report"
    subject = f"{one.rows:,} {'' if one.whose == TENANTS else one.whose + ' '}rows of {one.key.table} refer to rows of {one.parent}"
    if one.parent in platform.tables("shared_table"):
        return (
            f"{subject} that the platform backup does not have",
            "make a platform backup, `sbh platform backup`, then again",
        )
    if one.parent not in platform.tables("table"):
        return (
            f"{subject}, whose rows are in no backup",
            f"let the platform backup have them: add {_toml(one.parent)} to `shared` in the section [database], in place of"
            " `excluded`; then `sbh platform backup`",
        )
    return (
        f"{subject} that are another tenant's, or in none of the backups that were taken",
        (f"{one.query} shows them in the new database; " if stays else "")
        + "rows that are for all tenants belong to no tenant (NULL), or their table to `shared` in the section [database], and"
        " `sbh platform backup` has them from then on",
    )


def _toml(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
