"""Who writes to the bucket, reads it, or has an old copy of it."""
