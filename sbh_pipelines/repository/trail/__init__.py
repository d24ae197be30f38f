"""An audit trail: events chained by hashes and signed, appended to, read backwards, checked."""
