"""The results that faces declare or name: each is made, and described, next to the verb that returns it."""

from sbh_pipelines.backup.approvals import Approval
from sbh_pipelines.backup.audit.compliance_report import ComplianceReport, TenantCompliance
from sbh_pipelines.backup.audit.export import ExportReport, FileReport
from sbh_pipelines.backup.audit.verify import ChainReport, TrailReport, UnreadableTrail
from sbh_pipelines.backup.contents.reader import OpenFile
from sbh_pipelines.backup.contents.verification import Validation
from sbh_pipelines.backup.copies.promotion.promotion import Promotion
from sbh_pipelines.backup.copies.promotion.readiness import TenantReady
from sbh_pipelines.backup.copies.results import CopyLine, CopyRun, CopyStatus, TenantCopied
from sbh_pipelines.backup.copies.retention import CopyKept
from sbh_pipelines.backup.copies.upkeep import CopyUpkeep
from sbh_pipelines.backup.copies.verification import CopyVerification, VerifiedCopy
from sbh_pipelines.backup.create.recovery_points import LatestPoint
from sbh_pipelines.backup.create.status import BackupStatus
from sbh_pipelines.backup.drill.copy_points import CopyPointAge
from sbh_pipelines.backup.drill.records import DamagedDrill, DrillRecord, ScenarioResult
from sbh_pipelines.backup.drill.recovery_report import RecoveryObjectives, RecoveryPointAge, RecoveryTime
from sbh_pipelines.backup.export.manifest import Export
from sbh_pipelines.backup.health.examination import Examination
from sbh_pipelines.backup.health.findings import Finding
from sbh_pipelines.backup.health.observation import NewestDrill
from sbh_pipelines.backup.health.report import BackupMetrics, HealthReport
from sbh_pipelines.backup.health.storage import StorageReport, StoredBytes, TenantStorage
from sbh_pipelines.backup.journal.drain_result import DrainResult
from sbh_pipelines.backup.journal.giving_up import GivenUp
from sbh_pipelines.backup.journal.view.recovery_windows import (
    MomentWindow,
    RecoveryWindows,
    TenantWindows,
)
from sbh_pipelines.backup.journal.view.show import JournalListing, ShownTransaction, ShowRequest
from sbh_pipelines.backup.journal.view.status import GapLine, JournalStatus
from sbh_pipelines.backup.keys.certificate import ErasureCertificate
from sbh_pipelines.backup.keys.copy_rotation import CopyRotation
from sbh_pipelines.backup.keys.forgotten_copies import ForgottenAtCopy
from sbh_pipelines.backup.keys.key_state import KeyState
from sbh_pipelines.backup.keys.rotation import OwnerRotation, RotationReport
from sbh_pipelines.backup.move.move import Moved
from sbh_pipelines.backup.move.plan import MovePlan
from sbh_pipelines.backup.move.proof import MoveProof
from sbh_pipelines.backup.recover.platform_backup import PlatformBackup
from sbh_pipelines.backup.recover.recovery import RecoveryReport, TenantRecovery
from sbh_pipelines.backup.restore.into_schema import DroppedLooks, SchemaCopy
from sbh_pipelines.backup.restore.plan import FilePlan, LeftBehind, ReferenceRows, RestorePlan, RowSample, TablePlan
from sbh_pipelines.backup.restore.records import RestoreRecord
from sbh_pipelines.backup.restore.request import RestoreRequest, Scope
from sbh_pipelines.backup.restore.result import RestoreResult
from sbh_pipelines.backup.retain.forget import RetentionLine, RetentionOutcome
from sbh_pipelines.backup.retain.holds import HoldLine
from sbh_pipelines.backup.retain.journal_retention import JournalUpkeep
from sbh_pipelines.backup.retain.prune import NothingToPrune, PruneReport
from sbh_pipelines.backup.service.audit import EventListing
from sbh_pipelines.backup.service.upkeep.journal import JournalGaps, JournalSetup
from sbh_pipelines.backup.site.moves import MovedTenant
from sbh_pipelines.database.merge.fit.columns import SchemaDifference
from sbh_pipelines.database.rebuild.new_schema import Look
from sbh_pipelines.repository.catalog.erased import ErasedCopy

__all__ = [
    "Approval",
    "BackupMetrics",
    "BackupStatus",
    "ChainReport",
    "ComplianceReport",
    "CopyKept",
    "CopyLine",
    "CopyPointAge",
    "CopyRotation",
    "CopyRun",
    "CopyStatus",
    "CopyUpkeep",
    "CopyVerification",
    "DamagedDrill",
    "DrainResult",
    "DrillRecord",
    "DroppedLooks",
    "ErasedCopy",
    "ErasureCertificate",
    "EventListing",
    "Examination",
    "Export",
    "ExportReport",
    "FilePlan",
    "FileReport",
    "Finding",
    "ForgottenAtCopy",
    "GapLine",
    "GivenUp",
    "HealthReport",
    "HoldLine",
    "JournalGaps",
    "JournalListing",
    "JournalSetup",
    "JournalStatus",
    "JournalUpkeep",
    "KeyState",
    "LatestPoint",
    "LeftBehind",
    "Look",
    "MomentWindow",
    "MovePlan",
    "MoveProof",
    "Moved",
    "MovedTenant",
    "NewestDrill",
    "NothingToPrune",
    "OpenFile",
    "OwnerRotation",
    "PlatformBackup",
    "Promotion",
    "PruneReport",
    "RecoveryObjectives",
    "RecoveryPointAge",
    "RecoveryReport",
    "RecoveryTime",
    "RecoveryWindows",
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
    "ShowRequest",
    "ShownTransaction",
    "StorageReport",
    "StoredBytes",
    "TablePlan",
    "TenantCompliance",
    "TenantCopied",
    "TenantReady",
    "TenantRecovery",
    "TenantStorage",
    "TenantWindows",
    "TrailReport",
    "UnreadableTrail",
    "Validation",
    "VerifiedCopy",
]
