"""What a repository still has of earlier key epochs, and documents signed anew: what stands between an epoch and its end."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import CorruptObject, FormatUnsupported, ObjectChanged, ObjectMissing, StoreError
from sbh_pipelines.model import Progress, ProgressSink
from sbh_pipelines.repository.bounds import LEFT_ROWS_BYTES, all_below, listed, most_bytes
from sbh_pipelines.repository.documents import sealed_anew
from sbh_pipelines.repository.format import FIRST_EPOCH, Keys, compact, pack_id_of, parse_document, pretty, seal_epoch
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.repository.seal import LEFT_ROWS

# nosemgrep: expression-of-others - escaped
LEFT_ROWS_KEY = re.compile(re.escape(Keys.RESTORES) + r"[a-z0-9_]+\.rows-\d+")
# Where no signed document lies: what is sealed, what only a checksum covers, what other keys sign.
_UNSIGNED = (Keys.PACKS, Keys.INDEX, Keys.KEYS, Keys.AUDIT, Keys.FAILURES, "database/", "files/", "config/")


@dataclass(slots=True)
class Remains:
    """Of one epoch."""

    packs: int = 0
    bytes: int = 0
    index_objects: int = 0


def remains(repository: Repository) -> dict[int, Remains]:
    """By epoch, the newest too. The index must be loaded. A pack whose epoch cannot be told counts as the first's."""
    found: dict[int, Remains] = {}
    skip = len(repository.prefix)
    unknown: list[tuple[bytes, int]] = []
    for info in listed(repository.store, repository.prefix, Keys.PACKS):
        pack_id = pack_id_of(info.key[skip:].removeprefix(Keys.PACKS))
        if pack_id is None:
            continue
        epoch = repository.index.epoch_of(pack_id)
        if epoch is None:  # retired, or damaged
            unknown.append((pack_id, info.size))
        else:
            _add(found, epoch, info.size)
    epochs = side_by_side(lambda pack: _peek(repository, *pack), unknown, name="epochs")
    for epoch, (_, size) in zip(epochs, unknown, strict=True):
        _add(found, epoch, size)
    for epoch in side_by_side(lambda name: _index_epoch(repository, name), _index_objects(repository), name="epochs"):
        found.setdefault(epoch, Remains()).index_objects += 1
    return found


def _add(found: dict[int, Remains], epoch: int, size: int) -> None:
    of_epoch = found.setdefault(epoch, Remains())
    of_epoch.packs += 1
    of_epoch.bytes += size


def _peek(repository: Repository, pack_id: bytes, size: int) -> int:
    try:
        return repository.peek_epoch(pack_id, size) or FIRST_EPOCH
    except (CorruptObject, ObjectMissing):
        return FIRST_EPOCH


def _index_objects(repository: Repository) -> Iterator[str]:
    for info in listed(repository.store, repository.prefix, Keys.INDEX):
        name = info.key[len(repository.prefix) :]
        if not name.startswith((Keys.DAMAGED, Keys.RETIRED)):
            yield name


def _index_epoch(repository: Repository, name: str) -> int:
    try:
        return seal_epoch(repository.store.get_range(repository.prefix + name, 0, 2)) or FIRST_EPOCH
    except StoreError as error:
        if error.transient:
            raise
        return FIRST_EPOCH  # gone, or shorter than a sealed piece


def sign_anew(repository: Repository, progress: ProgressSink) -> int:
    """Sign in the newest epoch every document that is signed in an earlier one; how many were. Needs the tenant's lease.

    What they have sealed, and rows of nobody that restores took back, is sealed in it as well; nothing else changes. Each is
    replaced only if it is still the one whose signature was found to be genuine; one that is not stays as it is, and damaged.
    """
    done = 0
    for info in all_below(repository.store, repository.prefix):
        key = info.key[len(repository.prefix) :]
        if LEFT_ROWS_KEY.fullmatch(key):
            done += _seal_anew(repository, key)
        if (
            key.endswith(".json")
            and not key.startswith(_UNSIGNED)
            and key != Keys.LEASE
            and _sign_anew(repository, key)
        ):
            done += 1
            progress(Progress("keys: sign documents", repository.tenant, done, 0, "documents"))
    return done


def _sign_anew(repository: Repository, key: str) -> bool:
    try:
        data, etag = repository.store.get_with_etag(repository.prefix + key, most_bytes(key))
        document = parse_document(data, repository.url(key))
    except (ObjectMissing, CorruptObject):
        return False
    signature = document.get("signature")
    if not isinstance(signature, dict) or signature.get("key_epoch") == repository.sealer.epoch:
        return False
    try:
        if not repository.is_genuine(document):
            return False
    except CorruptObject:  # of an epoch that has no key
        return False
    bare = {name: value for name, value in document.items() if name not in ("checksum", "signature")}
    try:
        bare = sealed_anew(repository, key, bare)
    except (CorruptObject, FormatUnsupported):
        return False
    body = (pretty if key.startswith(Keys.MANIFESTS) else compact)(repository.sign(bare))
    try:
        repository.store.replace(repository.prefix + key, body, etag)
    except (ObjectChanged, ObjectMissing):  # a hold that was released or placed meanwhile
        return False
    return True


def _seal_anew(repository: Repository, key: str) -> bool:
    """Of rows that were nobody's before a restore, which its undo needs."""
    try:
        if seal_epoch(repository.store.get_range(repository.prefix + key, 0, 2)) == repository.sealer.epoch:
            return False
        sealed, etag = repository.store.get_with_etag(repository.prefix + key, LEFT_ROWS_BYTES)
        plain = repository.sealer.open(sealed, key.encode(), LEFT_ROWS, on=repository.url(key))
        sealed = repository.sealer.seal(plain, key.encode(), LEFT_ROWS)
        repository.store.replace(repository.prefix + key, sealed, etag)
    except StoreError as error:
        if error.transient:
            raise
        return False
    except (CorruptObject, FormatUnsupported):  # it stays as it is, and damaged
        return False
    return True
