"""Long work as runs of Dagster: launched once, watched, cancelled, through GraphQL."""
