"""By which keys a tenant's data keys were wrapped before: a copy of the bucket made then has those wrappings still.

Two witnesses, neither of which is complete alone: the audit trail has each rotation since there is one, and older versions of
the key objects are there until the bucket's lifecycle removes them. What neither can say is a doubt, and is told.
"""

from collections.abc import Iterable, Iterator, Sequence

from sbh_pipelines.backup.keys.erasure_places import ErasurePlace
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import CorruptObject, StoreDenied
from sbh_pipelines.model import Tenant
from sbh_pipelines.repository.bounds import most_bytes
from sbh_pipelines.repository.catalog.erased import ErasedKey, FormerWrapping
from sbh_pipelines.repository.format import FIRST_EPOCH, Keys, parse_document
from sbh_pipelines.repository.trail.reader import backwards

KEPT_ELSEWHERE = (
    "the tenant's rows in the live database and its files in the application's bucket: they are the application's to delete",
    "schemas of the application's database into which a restore put an old state, until they are dropped",
    "databases of drills that were killed, until the next drill removes them, a day later or more",
    "Dagster's history of runs: the tenant's slug, ids of backups, and with what a run was launched",
    "the tenant's slug, key and tier in platform backups, until platform.keep_last newer ones were made",
    "the audit trail, which has no content; exports that somebody took away",
)


def former_wrappings(
    site: Site, places: Iterable[ErasurePlace], tenants: Iterable[Tenant], now: Sequence[ErasedKey]
) -> tuple[list[FormerWrapping], list[str]]:
    """What wrapped the tenant's data keys before what wraps them `now`, and why that may not be all.

    `tenants`: the tenant in each region that may have a trail of it.
    """
    found: dict[str, FormerWrapping] = {}
    doubts: list[str] = []
    for place in places:
        for one in _older_versions(place, doubts):
            found.setdefault(one.key_id, one)
    told = False
    for tenant in tenants:
        for one in _rotations(site, tenant, doubts):
            told = told or not one.key_id
            if one.key_id:
                found.setdefault(one.key_id, one)
    if now and not told:
        doubts.append("the audit trail does not reach back to the making of the first key")
    current = {key.key_id for key in now}
    return [one for key_id, one in sorted(found.items()) if key_id not in current], list(dict.fromkeys(doubts))


def _older_versions(place: ErasurePlace, doubts: list[str]) -> Iterator[FormerWrapping]:
    try:
        for key, body in place.purger.older_versions(place.prefix + Keys.KEYS, most_bytes(Keys.KEYS)):
            try:
                document = parse_document(body, key)
            except CorruptObject:
                continue  # it wraps nothing
            if isinstance(document.get("key_id"), str) and "wrapped" in document:
                epoch = document.get("epoch")
                yield FormerWrapping(document["key_id"], epoch if type(epoch) is int else None, "older version")
    except StoreDenied:
        doubts.append("older versions of the key objects may not be read by this role (s3:GetObjectVersion)")


def _rotations(site: Site, tenant: Tenant, doubts: list[str]) -> Iterator[FormerWrapping]:
    """Each wrapping that a rotation replaced; one without a name where the trail tells of the first key's making."""
    for link in backwards(site.trails.of(tenant)):
        if link.error is not None:
            doubts.append("the audit trail is damaged")
        for event in link.events:
            if not event.inner:
                continue
            if event.event == "key.created" and event.props.get("epoch") == FIRST_EPOCH:
                yield FormerWrapping("", FIRST_EPOCH, "audit trail")
            keys = event.props.get("keys") if event.event == "key.rotated" else None
            for key in keys if isinstance(keys, list) else ():
                if isinstance(key, dict) and isinstance(key.get("from_key"), str) and key["from_key"]:
                    epoch = key.get("epoch")
                    yield FormerWrapping(key["from_key"], epoch if type(epoch) is int else None, "audit trail")
