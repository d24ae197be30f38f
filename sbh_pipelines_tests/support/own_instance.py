"""Instances of Dagster as `deploy/` has them, in a database and a bucket of the embedded servers."""

from pathlib import Path

from psycopg2.extensions import parse_dsn

from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.stack import Stack, environment

DEPLOY = Path(__file__).parents[2] / "deploy"
BUCKET = "dagster-runs"


def instance_file(name: str, port: int) -> str:
    """The file of `deploy/`, for a PostgreSQL that listens elsewhere than every other."""
    text = (DEPLOY / name).read_text("utf-8")
    assert "port: 5432" in text
    return text.replace("port: 5432", f"port: {port}")


def postgres_port(stack: Stack) -> int:
    return int(parse_dsn(stack.dsn())["port"])


def instance_environment(stack: Stack, database: str, redis: str = "redis://127.0.0.1:9/0") -> dict[str, str]:
    """What the instance takes from the environment."""
    user = "sbh_admin"
    lines = (line.split(":") for line in Layout(stack.dir).passfile.read_text("utf-8").splitlines())
    (password,) = {line[4] for line in lines if line[3] == user}
    variables = environment(stack).variables
    return {
        **{name: variables[name] for name in variables if name.startswith("AWS_")},
        "SBH_DAGSTER_PG_HOST": "127.0.0.1",
        "SBH_DAGSTER_PG_DB": database,
        "SBH_DAGSTER_PG_USER": user,
        "SBH_DAGSTER_PG_PASSWORD": password,
        "SBH_DAGSTER_BUCKET": BUCKET,
        "SBH_CELERY_BROKER": redis,
        "SBH_CELERY_BACKEND": redis,
    }


def bucket_of_dagster(stack: Stack) -> str:
    """The bucket, made where it is not there yet."""
    if BUCKET not in {bucket["Name"] for bucket in stack.s3_client().list_buckets()["Buckets"]}:
        stack.s3_client().create_bucket(Bucket=BUCKET)
    return BUCKET
