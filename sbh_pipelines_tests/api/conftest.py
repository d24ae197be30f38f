"""Fixtures of the API's tests: what runs is made for the attacks as well."""

from sbh_pipelines_tests.support.fix_api import (
    api_settings,
    api_stack,
    backed_up,
    dagster_url,
    lonely_server,
    second_server,
    server,
    tokens,
    workspace,
)

__all__ = [
    "api_settings",
    "api_stack",
    "backed_up",
    "dagster_url",
    "lonely_server",
    "second_server",
    "server",
    "tokens",
    "workspace",
]  # fixtures, made elsewhere
