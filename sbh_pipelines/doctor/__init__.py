"""The doctor: holds the settings against the real world, and says how to mend what does not fit.

    findings   what a check says: level, what, detail, remedy; and the report of all
    database     reachable, version, privileges, row security, tenancy map, stray rows, tenants table
    transit      TLS: the session with the database, the addresses in the settings
    storage      buckets: reachable; with `write` a test object
    whereabouts  the region of each bucket, as its server tells it
    protection   versions, object lock, encryption, public access, policy and lifecycle of each bucket
    keys         a round trip through the key provider, in every region
    machine      the settings file and the secrets on this machine, clocks, disk

Changes nothing, unless `write` is asked for, and then removes what it wrote.
"""

from sbh_pipelines.doctor.examine import examine
from sbh_pipelines.doctor.findings import Finding, Level, Report

__all__ = ["Finding", "Level", "Report", "examine"]
