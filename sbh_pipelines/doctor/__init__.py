"""The doctor: holds the settings against the real world, and says how to mend what does not fit.

    findings   what a check says: level, what, detail, remedy; and the report of all
    database   reachable, version, privileges, row security, tenancy map, stray rows, tenants table
    storage    buckets: reachable, region, versions, object lock, encryption; with `write` a test object
    keys       a round trip through the key provider, in every region
    machine    the settings file and the secrets on this machine, clocks, disk

Changes nothing, unless `write` is asked for, and then removes what it wrote.
"""

from sbh_pipelines.doctor.examine import examine
from sbh_pipelines.doctor.findings import Finding, Level, Report

__all__ = ["Finding", "Level", "Report", "examine"]
