"""Groups of commands about what goes on beside making and restoring backups: drill, health, journal, repository."""
