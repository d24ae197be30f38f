"""Object versions, by boto3: obstore does not list them. Only used when a file changed while it was backed up."""

from typing import Any


class BucketVersions:
    """Versions of the objects of one bucket."""

    def __init__(self, client: Any, bucket: str) -> None:
        self._client, self._bucket = client, bucket

    def version_with_etag(self, key: str, etag: str) -> str | None:
        """The newest version of `key` that has `etag`, or None."""
        pages = self._client.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=key)
        for page in pages:
            for version in page.get("Versions", []):
                if version["Key"] > key:
                    return None
                if version["Key"] == key and version["ETag"].strip('"') == etag.strip('"'):
                    found: str = version["VersionId"]
                    return None if found == "null" else found
        return None
