"""What `sbh doctor` says of the key service."""

import uuid

from sbh_pipelines.doctor import keys
from sbh_pipelines.doctor.findings import Level, Report
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.settings import Settings

REGION = "eu-west-1"
ACCESS = {"access_key_id": "moto", "secret_access_key": "moto", "regions": [REGION]}


def test_keys_of_tenants_own_are_tried_with_the_catalogs(embedded_stack: Stack) -> None:
    """There is no tenant of the doctor's, and so no KMS key for one."""
    name = f"alias/own-{uuid.uuid4().hex[:8]}"
    client = embedded_stack.kms_client(REGION)
    settings = Settings(
        storage=ACCESS,  # type: ignore[arg-type]
        keys={"kms_key_id": name + "-{tenant}", "kms_endpoint_url": embedded_stack.kms_endpoint},  # type: ignore[arg-type]
    )
    missing, found = Report(), Report()
    keys.check(missing, settings)
    assert [finding.level for finding in missing.findings] == [Level.ERROR]
    key_id = client.create_key(Description="of a test")["KeyMetadata"]["KeyId"]
    client.create_alias(AliasName=f"{name}-_catalog", TargetKeyId=key_id)
    keys.check(found, settings)
    assert [finding.level for finding in found.findings] == [Level.OK]
