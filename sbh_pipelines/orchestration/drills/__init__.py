"""The drills: assets, job, schedule, and what they measured as metadata."""
