"""Runs on several hosts: what travels is the run, a batch of tenants, and never a step.

heartbeat         that the worker of a run lives, said in Dagster's storage, which every host reaches
celery_launcher   Dagster's launcher for Celery, which knows when it knows nothing
celery_worker     the application that Celery's workers load: it can begin a run, and nothing else
"""
