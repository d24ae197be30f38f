"""Faults of stores and networks, on a seeded schedule, between the program and the real servers.

fault      one thing that goes wrong with one request: `schedule.Fault`
honest     faults that a store with all obligations of `stores/base.py` may have: the client is told, or can tell
lying      faults that break an obligation: a write that was acknowledged and lost, a read of former times
schedule   decides by seed, step, verb and kind of object which fault a request has; threads do not change that

    schedule      the faults, and when they come
    past          what an object and a listing were before, for stale answers
    s3_proxy      an HTTP proxy before an S3 server
    line_proxy    a TCP proxy before PostgreSQL
    world         a tenant's application behind both, and what its backups must be
"""
