"""Run by compose.yaml before what needs them: makes the buckets that are not there, versioned."""

import boto3

BUCKETS = ("sbh-files-eu-west-1", "sbh-backups-eu-west-1", "sbh-dagster")


def main() -> None:
    s3 = boto3.client("s3")  # where, and as whom, says the environment
    there = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for name in BUCKETS:
        if name not in there:
            s3.create_bucket(Bucket=name)
            s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
            print(f"made {name}")


if __name__ == "__main__":
    main()
