"""The results that faces declare or name: each is made, and described, next to the verb that returns it."""

from sbh_pipelines.backup.contents.verification import Validation
from sbh_pipelines.backup.create.recovery_points import LatestPoint
from sbh_pipelines.backup.create.status import BackupStatus
from sbh_pipelines.backup.health.examination import Examination
from sbh_pipelines.backup.health.findings import Finding
from sbh_pipelines.backup.health.report import BackupMetrics, HealthReport
from sbh_pipelines.backup.retain.forget import RetentionLine, RetentionOutcome
from sbh_pipelines.backup.retain.holds import HoldLine
from sbh_pipelines.backup.retain.prune import NothingToPrune, PruneReport

__all__ = [
    "BackupMetrics",
    "BackupStatus",
    "Examination",
    "Finding",
    "HealthReport",
    "HoldLine",
    "LatestPoint",
    "NothingToPrune",
    "PruneReport",
    "RetentionLine",
    "RetentionOutcome",
    "Validation",
]
