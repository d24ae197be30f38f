"""The results that faces declare or name: each is made, and described, next to the verb that returns it."""

from sbh_pipelines.backup.health.examination import Examination
from sbh_pipelines.backup.health.findings import Finding
from sbh_pipelines.backup.health.report import BackupMetrics, HealthReport

__all__ = ["BackupMetrics", "Examination", "Finding", "HealthReport"]
