"""A session with the application's database: connections with pinned settings, snapshots, COPY, PostgreSQL's own programs."""
