"""The key provider: wraps and unwraps a data key, in every region, and refuses to do so for another tenant."""

import os

from sbh_pipelines.doctor.findings import Report
from sbh_pipelines.errors import KeyServiceError
from sbh_pipelines.security.keys import DATA_KEY_BYTES, KeyProvider, open_key_provider
from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.places.locality import require_tls

AREA = "keys"
TENANT, _OTHER = "sbh-doctor", "sbh-doctor-other"
OWN = "_catalog"  # what every site with a KMS key per tenant has a key for


def check(report: Report, settings: Settings) -> None:
    with report.trying(AREA):
        if settings.keys.provider == "aws-kms":
            address, allow_http = settings.keys.kms_endpoint_url, settings.storage.allow_http
            require_tls(address, "keys.kms_endpoint_url", allow_http=allow_http)
        provider = open_key_provider(settings)
        regions = settings.storage.regions if settings.keys.provider == "aws-kms" else settings.storage.regions[:1]
        for region in regions:
            with report.trying(AREA):
                round_trip(report, provider, region, OWN if "{tenant}" in settings.keys.kms_key_id else TENANT)
    if settings.keys.provider == "local":
        report.warn(
            AREA,
            "Data keys are wrapped by a file on this machine",
            f"{settings.keys.key_file}: whoever loses it loses every backup",
            'keep a copy of it elsewhere; in production use keys.provider = "aws-kms"',
        )


def round_trip(report: Report, provider: KeyProvider, region: str, tenant: str, area: str = AREA) -> None:
    """Raises KeyServiceError where the key cannot be used."""
    data_key = os.urandom(DATA_KEY_BYTES)
    wrapped = provider.wrap(data_key, tenant, region)
    if provider.unwrap(wrapped, tenant, region) != data_key:
        report.fail(
            area, "A wrapped key comes back as another", f"{provider.name} in {region}", "do not use this key service"
        )
        return
    try:
        provider.unwrap(wrapped, _OTHER, region)
    except KeyServiceError:
        report.ok(
            area, "A data key wraps and unwraps, for its tenant only", f"{provider.name}, {wrapped['key_id']}, {region}"
        )
    else:
        report.fail(
            area,
            "A key wrapped for one tenant unwraps for another",
            f"{provider.name} in {region} ignores the encryption context",
            "use a key service that honours it",
        )
