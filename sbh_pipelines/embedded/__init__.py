"""Real servers from wheels, and data to fill them: for the demo, the tests and the benchmarks. Never for production.

    servers   PostgreSQL 18, an S3 server and a KMS, started together, with their state under one directory
    sample    a made-up application, the same for the same seed

Everything listens on 127.0.0.1 only. Passwords protect PostgreSQL and the S3 port; the inner ports of the S3 server and
the KMS have none, so every user of the machine can read what the stack holds.
"""
