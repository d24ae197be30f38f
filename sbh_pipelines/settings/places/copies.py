"""Copies of the backups in another region or with another provider, and the settings of a site that lies in one."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, StringConstraints, model_validator

from sbh_pipelines.errors import SettingsError
from sbh_pipelines.settings.places.locality import require_tls
from sbh_pipelines.settings.places.residency import Name, key_region
from sbh_pipelines.settings.retention import PruneSettings, RetentionSettings
from sbh_pipelines.settings.section import Section

if TYPE_CHECKING:
    from sbh_pipelines.settings import Settings

CopyName = Annotated[str, StringConstraints(min_length=1, max_length=40, pattern=r"^[a-z0-9][a-z0-9-]*$")]


class CopySettings(Section):
    """A second place for backups: another region, or another provider's S3. What lies there is byte for byte what lies here,
    but for the keys, which are wrapped by a KMS key of that place.
    """

    name: CopyName = Field(description="The copy's name: lower-case letters, digits and hyphens.", examples=["dr"])
    from_: list[Name] = Field(
        [], alias="from", description="The regions whose backups are copied; empty: all of `storage.regions`."
    )
    to: Name = Field(
        description="The region in which the copy lies. It must be allowed to each tenant that is copied; others are left out,"
        " and reported. It may be the region of the backups: with another provider's `endpoint_url` that is a second place, on the"
        " same server it is no second region, and `sbh doctor` says so.",
        examples=["eu-central-1"],
    )
    kind: Literal["managed", "external"] = Field(
        "managed",
        description="`managed`: this system copies; `external`: something else does (replication of the bucket, rclone), and"
        " this system verifies and reports.",
    )
    bucket: str = Field(
        "sbh-copy-{region}",
        description="The copy's bucket; `{region}` is the region whose backups these are. No backups of its own may lie in it.",
    )
    endpoint_url: str | None = Field(
        None, description="Only for S3 servers other than AWS: where the copy's is. `{region}` is filled in with `to`."
    )
    access_key_id: str | None = Field(
        None, description="As `storage.access_key_id`, of the copy's server. Null: that one."
    )
    secret_access_key: SecretStr | None = None
    secret_access_key_file: Path | None = None
    secret_access_key_secret: str | None = None
    kms_key_id: str | None = Field(
        None,
        description="With `keys.provider = 'aws-kms'`: the KMS key in `to` that wraps the tenants' data keys there, as"
        " `keys.kms_key_id`; `{region}` is filled in with `to`. Null: that one's name.",
    )
    kms_endpoint_url: str | None = Field(None, description="As `keys.kms_endpoint_url`. Null: that one.")
    key_file: Path | None = Field(
        None,
        description="With `keys.provider = 'local'`: the key file that wraps data keys there. Null: `keys.key_file`.",
    )
    tiers: list[str] = Field([], description="The tiers whose tenants are copied; empty: all.")
    journal: bool = Field(True, description="Whether the change journal is copied, where there is one.")
    objective_minutes: float = Field(
        120.0,
        gt=0,
        description="How old the newest recovery point that was verified there may become, min, before it alerts.",
    )
    lock_days: int | None = Field(
        None,
        ge=1,
        le=3650,
        description="Object lock of so many days on each copied object but keys: nobody can delete it before. Null: none.",
    )
    limit_mib_s: float | None = Field(None, gt=0, description="Most that is copied, MiB/s. Null: no limit.")
    hours: str | None = Field(
        None,
        pattern=r"^\d\d:\d\d-\d\d:\d\d$",
        description="When copying may begin, e.g. `22:00-06:00`, in `schedules.time_zone`; a copy that runs goes on. Null: always.",
    )
    retention: RetentionSettings | None = Field(
        None,
        description="How long backups are kept there, as `[retention]`. Null: as here. Deletions here are never repeated there.",
    )
    keep_new_days: int = Field(
        14,
        ge=1,
        le=3650,
        description="Whatever came there within so many days stays there, whatever `retention` says, and takes no other's place:"
        " so long somebody has to see that an application, or who broke into it, makes backups that push the good ones out."
        " With `lock_days` longer than that, so long.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "CopySettings":
        if "{tenant}" in self.bucket:
            raise ValueError("the bucket of a copy must not depend on the tenant")
        if not self.bucket or set("{}/") & set(self.bucket.replace("{region}", "")):
            raise ValueError("bucket is the name of a bucket, in which {region} may stand")
        secrets = (self.secret_access_key, self.secret_access_key_file, self.secret_access_key_secret)
        if self.access_key_id is None and any(secrets):
            raise ValueError("a secret access key needs its access_key_id")
        if self.access_key_id is not None and not any(secrets):
            raise ValueError("access_key_id needs a secret: secret_access_key_file, or another form of it")
        if self.kms_key_id and key_region(self.kms_key_id.replace("{region}", self.to)) not in ("", self.to):
            raise ValueError(f"kms_key_id is a key of another region than {self.to}")
        if "{tenant}" in (self.kms_key_id or "") and not (self.kms_key_id or "").startswith(("alias/", "arn:")):
            raise ValueError("kms_key_id with {tenant} must be an alias, or the ARN of one")
        if len(set(self.from_)) != len(self.from_):
            raise ValueError("from names a region twice")
        if self.hours:
            self._check_hours(self.hours)
        return self

    @staticmethod
    def _check_hours(hours: str) -> None:
        begin, end = hours.split("-")
        for part in (begin, end):
            if part > "23:59" or part[3:] > "59":
                raise ValueError(f"hours: {part} is no time of a day, from 00:00 to 23:59")
        if begin == end:
            raise ValueError("hours begin when they end: leave them out to copy at all times")

    def regions(self, settings: "Settings") -> list[str]:
        """The regions whose backups are copied."""
        return self.from_ or settings.storage.regions


def check_copies(settings: "Settings") -> None:
    """Raises ValueError where copies have one name, are of a region that there is none of, lie where the backups, the files or
    another copy do, would take what lists a region's tenants out of its zones, or could not be reached as they are.
    """
    names = [copy.name for copy in settings.copies]
    if len(set(names)) != len(names):
        raise ValueError("two copies have one name")
    if settings.copies and settings.storage.kind == "local":
        raise ValueError("copies need storage.kind = 's3'")
    if settings.primary is not None:
        _check_primary(settings, settings.primary)
    taken: dict[tuple[str, str], str] = {}
    for copy in settings.copies:
        try:
            _check_from(settings, copy)
            _check_keys(settings, copy)
            for region in copy.regions(settings):
                where = _check_bucket(settings, copy, region)
                if taken.setdefault(where, copy.name) != copy.name:
                    raise ValueError(
                        f"it lies in {where[1]}, where the copy {taken[where]} is: give each a bucket of its own"
                    )
        except ValueError as error:
            raise ValueError(f"copies: {copy.name}: {error}") from None


def _check_primary(settings: "Settings", name: str) -> None:
    copy = next((copy for copy in settings.copies if copy.name == name), None)
    if copy is None:
        known = ", ".join(copy.name for copy in settings.copies) or "none"
        raise ValueError(f"primary is the name of one of [[copies]], and {name} is none of them: {known}")
    if missing := [region for region in settings.storage.regions if region not in copy.regions(settings)]:
        raise ValueError(
            f"primary: the copy {name} is not of {', '.join(missing)}, and backups of that region would have no place: have"
            " settings of their own for the regions that were lost, with storage.regions of these alone"
        )


def _check_from(settings: "Settings", copy: CopySettings) -> None:
    regions, residency = copy.regions(settings), settings.residency
    if strange := [region for region in regions if region not in settings.storage.regions]:
        raise ValueError(f"from names {', '.join(strange)}, which is none of storage.regions")
    if len(regions) > 1 and "{region}" not in copy.bucket:
        raise ValueError("it is of several regions: write {region} into its bucket")
    leaving = [region for region in regions if not residency.is_one_zone([region, copy.to])]
    if leaving and not residency.platform_lists_all:
        raise ValueError(
            f"{copy.to} is in no zone with {', '.join(leaving)}, and the catalog that is copied lists the tenants: copy to a"
            " region of the zone, or set residency.platform_lists_all = true if that may be"
        )


def _check_keys(settings: "Settings", copy: CopySettings) -> None:
    storage, keys = settings.storage, settings.keys
    given = {"keys.kms_key_id": keys.kms_key_id} if keys.provider == "aws-kms" and not copy.kms_key_id else {}
    given["storage.sse_kms_key_id"] = storage.sse_kms_key_id or ""
    for field, key_id in given.items():
        if (home := key_region(key_id.replace("{region}", copy.to))) not in ("", copy.to):
            mend = "write {region} into it" + (", or give the copy a kms_key_id" if field.startswith("keys") else "")
            raise ValueError(f"{field} is a key in {home}, and the copy in {copy.to} would use it: {mend}")
    for field, url in (("endpoint_url", copy.endpoint_url), ("kms_endpoint_url", copy.kms_endpoint_url)):
        try:
            require_tls(url, field, allow_http=storage.allow_http)
        except SettingsError as error:
            raise ValueError(f"{error.what}: {error.remedy}") from None


def _check_bucket(settings: "Settings", copy: CopySettings, region: str) -> tuple[str, str]:
    """(server, bucket) of what is copied of a region. Raises ValueError where the originals, or files, are."""
    storage, bucket = settings.storage, copy.bucket.replace("{region}", region)
    there = server_of(copy.endpoint_url or storage.endpoint_url, copy.to)
    originals = filter(None, (storage.bucket, storage.catalog_bucket, settings.files.bucket))
    for template in originals:
        for home in storage.regions:
            plain = [re.escape(part) for part in template.replace("{region}", home).split("{tenant}")]
            # nosemgrep: expression-of-others - escaped, from the settings
            if server_of(storage.endpoint_url, home) == there and re.fullmatch(".+".join(plain), bucket):
                raise ValueError(f"it lies in {bucket}, where the backups themselves or the files are")
    return there, bucket


def server_of(endpoint_url: str | None, region: str) -> str:
    """What tells servers apart: host and port; '' for AWS, where names of buckets are unique."""
    try:
        parts = urlsplit((endpoint_url or "").replace("{region}", region))
        host, port = parts.hostname or "", parts.port or {"http": 80}.get(parts.scheme.lower(), 443)
    except ValueError:
        raise ValueError("endpoint_url is no address, e.g. https://host.example.com") from None
    return (
        "" if not host or host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu")) else f"{host}:{port}"
    )


def copy_named(settings: "Settings", name: str) -> CopySettings:
    """Raises SettingsError where there is no copy of this name."""
    for copy in settings.copies:
        if copy.name == name:
            return copy
    known = ", ".join(copy.name for copy in settings.copies)
    raise SettingsError(
        "There is no copy of this name",
        on=ascii(name)[1:-1][:80],
        why=f"the settings name {known}" if known else "the settings name no copy",
        remedy="`sbh copies status` lists them; one is added as [[copies]] in the settings",
    )


def at_copy(settings: "Settings", name: str, every_region: bool = False) -> "Settings":
    """The settings of a site whose backups are those of the copy: regions keep their names, and lie elsewhere.

    `every_region`: also those that are not copied, for what was copied of them once.

    The database and the application's files are where they were. What a copy leaves to the settings is as these were written,
    also where another copy is the primary. Raises SettingsError.
    """
    copy, settings = copy_named(settings, name), settings.as_written
    own = copy.access_key_id is not None
    names = ("access_key_id", "secret_access_key", "secret_access_key_file", "secret_access_key_secret")
    storage = settings.storage.model_copy(
        update={
            "bucket": copy.bucket,
            "catalog_bucket": copy.bucket,
            "regions": settings.storage.regions if every_region else copy.regions(settings),
            "pack_classes": {},  # the copy's server may know others
            "endpoint_url": _filled(copy.endpoint_url or settings.storage.endpoint_url, copy.to),
            "sse_kms_key_id": _filled(settings.storage.sse_kms_key_id, copy.to),
            **({field: getattr(copy, field) for field in names} if own else {}),
        }
    ).lying_in(copy.to, settings.storage)
    keys = settings.keys.model_copy(
        update={
            "kms_key_id": _filled(copy.kms_key_id or settings.keys.kms_key_id, copy.to),
            "kms_endpoint_url": _filled(copy.kms_endpoint_url or settings.keys.kms_endpoint_url, copy.to),
            "key_file": copy.key_file or settings.keys.key_file,
            "previous_key_files": [file for file in (settings.keys.key_file,) if copy.key_file and file]
            + settings.keys.previous_key_files,
        }
    ).lying_in(copy.to)
    return settings.model_copy(
        update={
            "storage": storage,
            "keys": keys,
            "retention": copy.retention or settings.retention,
            "prune": _prune_of(copy, settings),
            "copies": [],
        }
    )


def with_primary(settings: "Settings") -> "Settings":
    """The settings that hold where a copy is the primary: its place is that of the backups, and the other copies are copied to.

    Those without `primary` as they are.
    """
    if settings.primary is None:
        return settings
    others = [copy for copy in settings.copies if copy.name != settings.primary]
    return at_copy(settings, settings.primary).model_copy(update={"copies": others}).written_as(settings)


def primary_copy(settings: "Settings") -> CopySettings | None:
    """The copy that is the primary; None where none is."""
    return None if settings.primary is None else copy_named(settings.as_written, settings.primary)


def _prune_of(copy: CopySettings, settings: "Settings") -> PruneSettings:
    """What was retired under object lock is removed when the lock is over, and not before: some servers refuse it."""
    hours = max(settings.prune.min_age_hours, 24.0 * (copy.lock_days or 0))
    return settings.prune.model_copy(update={"min_age_hours": hours})


def _filled(template: str | None, region: str) -> str | None:
    return template.replace("{region}", region) if template else None
