"""Errors of running it all, and findings of health, which nothing raises."""

from sbh_pipelines.errors.base import SbhError


class EmbeddedError(SbhError):
    """The embedded servers (demo, tests, `sbh stack`) cannot do what was asked."""

    code, exit_status, http_status = "SBH-800", 10, 500
    advice = "the text names the log; `sbh stack down`, `sbh stack up`"


class BatchError(SbhError):
    """Some tenants of a batch failed; the others did not."""

    code, exit_status, http_status = "SBH-900", 11, 500
    advice = "the text names each with its own code"


class AlertError(SbhError):
    """Some channels did not take an alert; the others did."""

    code, exit_status, http_status = "SBH-910", 12, 502
    advice = "correct the section `[alerts]` of the settings, then `sbh alerts test`"


class HealthError(SbhError):
    """A finding about the backups, not the failure of a call."""

    code, exit_status, http_status = "SBH-930", 14, 503
    advice = "`sbh health` shows all of them, each with what to do"


class RecoveryPointMissed(HealthError):
    """A tenant would lose more than its objective allows."""

    code = "SBH-931"
    advice = "see why its runs failed or did not begin; `sbh backup create TENANT`"


class LastBackupFailed(HealthError):
    """The tenant's last backup failed, or there is none."""

    code = "SBH-932"
    advice = "`sbh backup status BACKUP -t TENANT` has the error; mend it, `sbh backup create TENANT`"


class UnusualSize(HealthError):
    """A backup is much smaller or larger than those before it."""

    code = "SBH-933"
    advice = "ask whether so much was to go, or to come; `sbh restore diff` with the backup before it shows what went"


class RetentionNotEnforced(HealthError):
    """Backups are there that the policy no longer keeps."""

    code = "SBH-934"
    advice = "`sbh backup forget TENANT --dry-run` shows them; without it, it says why they cannot go"


class DrillOverdue(HealthError):
    """There was no drill for too long."""

    code = "SBH-935"
    advice = "see the runs of `drill_job`; `sbh drill run --tenant TENANT`"


class RunStuck(HealthError):
    """A run's worker is gone, or it is over its time, or it says nothing any more."""

    code = "SBH-936"
    advice = "look at the run in Dagster, and end it there; the next one takes up the work"


class JournalBehind(HealthError):
    """What was committed is in no journal for longer than was promised."""

    code = "SBH-937"
    advice = "see the runs of `journal_drain_job`; `sbh journal drain`"


class JournalInterrupted(HealthError):
    """The journal has a gap, or stopped telling of a table."""

    code = "SBH-938"
    advice = "back up the tenants that it concerns; `sbh journal gaps` lists them"


class SlotAtRisk(HealthError):
    """The journal's slot is gone, or about to be dropped by the server."""

    code = "SBH-939"
    advice = "`sbh journal drain`; then back up the tenants. If it goes on to grow, a transaction is open for long"


class CopyBehind(HealthError):
    """What was verified at a copy is older than was promised."""

    code = "SBH-940"
    advice = "`sbh copies status NAME`; `sbh copies run NAME`"


class SourceFilesMissing(HealthError):
    """Rows refer to files that were not in the bucket when the newest backup was made. The backup is whole without
    them.
    """

    code = "SBH-941"
    advice = (
        "`sbh backup show latest -t TENANT` names some; [file-loss.md](operations/file-loss.md) if they were there once"
    )


class OrchestratorError(SbhError):
    """Dagster refused to launch or cancel a run."""

    code, exit_status, http_status = "SBH-920", 13, 502
    advice = "the text has its answer; is the code location loaded, is the API's token believed? `sbh doctor`"


class OrchestratorUnavailable(OrchestratorError):
    """Dagster does not answer."""

    code, http_status, transient = "SBH-921", 503, True
    advice = (
        "is `sbh ui` or `dagster-webserver` up at `api.dagster_url`? Ask for the operation before you repeat: the "
        "run may have begun"
    )
    unanswered = False  # whether a run was asked for, and may come all the same


class SiteNotAlone(OrchestratorError):
    """Another code location of the Dagster instance has the same `site.name`, or none either. Both would keep one set of
    partitions.
    """

    code, exit_status, http_status = "SBH-924", 13, 409
    advice = "give each settings file a `site.name` of its own, then reload the code locations"


class RequestUnreadable(OrchestratorError):
    """What a run was asked for was sealed, and does not open: of another tenant or backup, damaged, or of a key epoch
    that was destroyed.
    """

    code = "SBH-923"
    advice = "ask for the restore again"
