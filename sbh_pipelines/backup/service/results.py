"""The results that faces declare or name: each is made, and described, next to the verb that returns it."""

from sbh_pipelines.backup.approvals import Approval
from sbh_pipelines.backup.audit.compliance_report import ComplianceReport, TenantCompliance
from sbh_pipelines.backup.audit.export import ExportReport, FileReport
from sbh_pipelines.backup.audit.verify import ChainReport, TrailReport, UnreadableTrail
from sbh_pipelines.backup.contents.verification import Validation
from sbh_pipelines.backup.create.recovery_points import LatestPoint
from sbh_pipelines.backup.create.status import BackupStatus
from sbh_pipelines.backup.drill.records import DamagedDrill, DrillRecord, ScenarioResult
from sbh_pipelines.backup.drill.recovery_report import RecoveryObjectives, RecoveryPointAge, RecoveryTime
from sbh_pipelines.backup.export.manifest import Export
from sbh_pipelines.backup.health.examination import Examination
from sbh_pipelines.backup.health.findings import Finding
from sbh_pipelines.backup.health.report import BackupMetrics, HealthReport
from sbh_pipelines.backup.keys.certificate import ErasureCertificate
from sbh_pipelines.backup.keys.rotation import KeyState, OwnerRotation, RotationReport
from sbh_pipelines.backup.recover.platform_backup import PlatformBackup
from sbh_pipelines.backup.recover.recovery import RecoveryReport, TenantRecovery
from sbh_pipelines.backup.restore.into_schema import DroppedLooks, SchemaCopy
from sbh_pipelines.backup.restore.plan import FilePlan, ReferenceRows, RestorePlan, RowSample, TablePlan
from sbh_pipelines.backup.restore.records import RestoreRecord
from sbh_pipelines.backup.restore.request import RestoreRequest, Scope
from sbh_pipelines.backup.restore.result import RestoreResult
from sbh_pipelines.backup.retain.forget import RetentionLine, RetentionOutcome
from sbh_pipelines.backup.retain.holds import HoldLine
from sbh_pipelines.backup.retain.prune import NothingToPrune, PruneReport
from sbh_pipelines.backup.service.audit import EventListing
from sbh_pipelines.database.merge.fit.columns import SchemaDifference
from sbh_pipelines.database.rebuild.new_schema import Look

__all__ = [
    "Approval",
    "BackupMetrics",
    "BackupStatus",
    "ChainReport",
    "ComplianceReport",
    "DamagedDrill",
    "DrillRecord",
    "DroppedLooks",
    "ErasureCertificate",
    "EventListing",
    "Examination",
    "Export",
    "ExportReport",
    "FilePlan",
    "FileReport",
    "Finding",
    "HealthReport",
    "HoldLine",
    "KeyState",
    "LatestPoint",
    "Look",
    "NothingToPrune",
    "OwnerRotation",
    "PlatformBackup",
    "PruneReport",
    "RecoveryObjectives",
    "RecoveryPointAge",
    "RecoveryReport",
    "RecoveryTime",
    "ReferenceRows",
    "RestorePlan",
    "RestoreRecord",
    "RestoreRequest",
    "RestoreResult",
    "RetentionLine",
    "RetentionOutcome",
    "RotationReport",
    "RowSample",
    "ScenarioResult",
    "SchemaCopy",
    "SchemaDifference",
    "Scope",
    "TablePlan",
    "TenantCompliance",
    "TenantRecovery",
    "TrailReport",
    "UnreadableTrail",
    "Validation",
]
