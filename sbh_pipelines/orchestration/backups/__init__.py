"""The assets, jobs, checks and schedules that make backups and validate them."""
