"""Where backups, files and their copies lie, and which of those places are allowed."""
