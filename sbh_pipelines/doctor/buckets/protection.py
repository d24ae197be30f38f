"""How a bucket is protected: versions, object lock, encryption, public access, TLS-only, and rules that expire objects.

On AWS what is missing is a warning with the command that sets it. Other servers lack some of these notions: there it is shown.
"""

import math
from collections.abc import Callable
from typing import Any

from sbh_pipelines.doctor.findings import Level, Report
from sbh_pipelines.errors import StoreDenied, StoreError
from sbh_pipelines.settings import Settings
from sbh_pipelines.stores.bucket_rules import LifecycleRule, denies_foreign_writes, denies_plaintext
from sbh_pipelines.stores.s3_control import S3Control
from sbh_pipelines.stores.versions import kept_days

AREA = "storage"


def check(
    report: Report,
    settings: Settings,
    control: S3Control,
    name: str,
    prefixes: list[str],
    *,
    files: str = "",
    strict: bool,
) -> None:
    """`prefixes`: where backups are in this bucket, `{tenant}` for any tenant; empty for the application's files only.

    `files`: where these are, if they are here.
    """
    facts = _Facts(report, name, strict)
    recover = settings.journal.keep_days if files and settings.journal.enabled else None
    facts.versions(control, recover)
    facts.lock(control, prefixes)
    facts.encryption(control, settings, bool(prefixes))
    facts.public_access(control)
    facts.policy(control, prefixes, files)
    if prefixes or files:
        facts.lifecycle(control, prefixes, files, recover)
    report.ok(AREA, f"The bucket {name} is set up", ", ".join(facts.known))


class _Facts:
    def __init__(self, report: Report, name: str, strict: bool) -> None:
        self._report, self._name, self._strict = report, name, strict
        self.known: list[str] = []

    def versions(self, control: S3Control, recover: float | None) -> None:
        """`recover`: how many days back tenants with files here can be recovered to a moment; None: not at all."""
        with self._report.trying(AREA, level=Level.WARNING):
            if control.versioned(self._name):
                self.known.append("versioned")
            else:
                moment = "; recovered to a moment, a tenant gets the files of the newest backup before it"
                self._report.warn(
                    AREA,
                    f"The bucket {self._name} keeps no versions",
                    "what is overwritten or deleted there is gone, and files that change during a backup are read by ETag"
                    + (moment if recover is not None else ""),
                    f"aws s3api put-bucket-versioning --bucket {self._name} --versioning-configuration Status=Enabled",
                )

    def lock(self, control: S3Control, prefixes: list[str]) -> None:
        found = self._asked("object lock", lambda: control.object_lock(self._name))
        if found is None:
            return
        self.known.append(f"object lock: {found}" if found else "no object lock")
        if found and found != "no default period" and prefixes:
            self._report.warn(
                AREA,
                f"Every object of the bucket {self._name} is locked, data keys among them",
                f"{found}: until then an erased tenant's key objects stay, and what is pruned is kept in old versions",
                "keep backups in a bucket without a default period of object lock; or take the period for the time in which"
                " an erasure is not complete, or give each tenant a KMS key of its own (keys.kms_key_id with {tenant})",
            )

    def encryption(self, control: S3Control, settings: Settings, backups: bool) -> None:
        found = self._asked("encrypted by the server", lambda: control.encryption(self._name))
        if found is not None:
            self.known.append(f"encrypted by the server: {found}" if found else "not encrypted by the server")
        if backups and settings.storage.sse != "none":
            self.known.append(f"backups ask for {settings.storage.sse}")

    def public_access(self, control: S3Control) -> None:
        blocked = self._asked("public access", lambda: control.blocks_public_access(self._name))
        if blocked:
            self.known.append("public access blocked")
        elif blocked is False and self._strict:
            self._report.warn(
                AREA,
                f"The bucket {self._name} does not block public access",
                "one wrong policy would publish the tenants' names, and their files where they are in it",
                f"aws s3api put-public-access-block --bucket {self._name} --public-access-block-configuration"
                " BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true",
            )

    def policy(self, control: S3Control, prefixes: list[str], files: str) -> None:
        policy = self._asked("bucket policy", lambda: control.policy(self._name))
        if policy is None:
            return
        if denies_plaintext(policy, self._name):
            self.known.append("TLS only")
        elif self._strict:
            self._report.warn(
                AREA,
                f"The bucket {self._name} takes requests without TLS",
                "no statement of its policy denies s3:* where aws:SecureTransport is false",
                f"aws s3api put-bucket-policy --bucket {self._name} --policy file://bucket-policy.json"
                " (deploy/policies/bucket-policy.json, filled in)",
            )

        open_to_others = [prefix for prefix in prefixes if not denies_foreign_writes(policy, self._name, prefix)]
        if prefixes and not open_to_others:
            self.known.append("only some roles write backups")
        elif open_to_others and self._strict:
            beside = f"; the application writes to this bucket, below {files}" if files else ""
            self._report.warn(
                AREA,
                f"Whoever may put objects into the bucket {self._name} may overwrite backups",
                f"no statement of its policy denies s3:PutObject below {', '.join(open_to_others)} to all but the program's"
                f" roles{beside}",
                f"aws s3api put-bucket-policy --bucket {self._name} --policy file://bucket-policy.json"
                " (deploy/policies/bucket-policy.json, filled in); or keep backups in a bucket of their own: storage.bucket",
            )

    def lifecycle(self, control: S3Control, prefixes: list[str], files: str, recover: float | None) -> None:
        rules: list[LifecycleRule] | None = self._asked("lifecycle", lambda: control.lifecycle(self._name))
        if rules is None:
            return
        for rule in rules:
            name = rule.name[:80]
            if touched := [prefix for prefix in prefixes if rule.expires(prefix)]:
                self._report.fail(
                    AREA,
                    f"A lifecycle rule of the bucket {self._name} deletes objects of backups",
                    f"the rule {name} reaches {', '.join(touched)}: backups share objects, so that new ones break as well",
                    "limit the rule to other prefixes; what is kept how long is for the [retention] section to say",
                )
            if touched := [prefix for prefix in prefixes if rule.moves_away(prefix)]:
                self._report.fail(
                    AREA,
                    f"A lifecycle rule of the bucket {self._name} moves objects of backups where they cannot be read at once",
                    f"the rule {name} reaches {', '.join(touched)}",
                    "limit the rule to other prefixes, or to classes that are read at once (STANDARD_IA, GLACIER_IR)",
                )
            elif files and rule.moves_away(files):
                self._report.warn(
                    AREA,
                    f"A lifecycle rule of the bucket {self._name} moves files where a backup cannot read them",
                    f"the rule {name} reaches {files}: a file that was not backed up before fails its tenant's backup",
                    "limit the rule to other prefixes or to classes that are read at once (STANDARD_IA, GLACIER_IR), or exclude"
                    " the folder: under [files] exclude",
                )
        kept = kept_days(rules, files) if files else None
        if kept is not None and recover is not None and kept < recover:
            self._report.warn(
                AREA,
                f"Lifecycle rules of the bucket {self._name} remove versions of files before the journal forgets their rows",
                f"after {kept} days (NoncurrentVersionExpiration), and journal.keep_days is {recover:g}: recovered to an earlier"
                " moment, a tenant gets the files of the newest backup before it",
                f"raise NoncurrentDays to {math.ceil(recover)}, or lower journal.keep_days",
            )
        self.known.append(f"lifecycle rules: {len(rules)}")

    def _asked(self, what: str, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except StoreDenied:
            self.known.append(f"{what}: not readable")
        except StoreError as error:
            self.known.append(f"{what}: {error.why or 'unknown'}")
        return None
