"""Clocks of other machines against ours: leases, recovery points and signatures all rest on them."""

from sbh_pipelines.doctor.findings import Report

WARNING_S = 5.0
ERROR_S = 30.0  # a tenth of the default lease: beyond, a live writer's lease could look expired


def check(report: Report, whose: str, offset_s: float, error_s: float = 0.0) -> None:
    """A finding on one clock; `error_s` is how far off the measurement may be."""
    if error_s == float("inf"):
        report.warn("clocks", f"{whose} does not tell its time")
        return
    detail = f"{offset_s:+.1f} s against this machine's" + (f", measured to ±{error_s:.1f} s" if error_s >= 0.1 else "")
    beyond = abs(offset_s) - error_s
    remedy = "synchronize this machine's clock, or that one's, with NTP (`timedatectl set-ntp true`)"
    if beyond > ERROR_S:
        report.fail("clocks", f"The clock of {whose} is far off", detail, remedy)
    elif beyond > WARNING_S:
        report.warn("clocks", f"The clock of {whose} is off", detail, remedy)
    else:
        report.ok("clocks", f"The clock of {whose} agrees", detail)
