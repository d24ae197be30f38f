"""Real servers from wheels: PostgreSQL, SeaweedFS, moto's KMS, as one stack."""
