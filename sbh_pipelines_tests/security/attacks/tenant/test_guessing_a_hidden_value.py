"""A tenant's operator, who sees masked values in plans, wants what is behind the mask: by conditions that count, or by asking to show it.

What stops them: a condition over a column that the settings call sensitive, and `show_sensitive`, are for those who may export.
"""

from collections.abc import Callable
from typing import Any

import pytest

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.errors import AccessDenied
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application

EVE = UserContext("eve", ACME, Role.OPERATOR, "api")
ANN = UserContext("ann", ACME, Role.ADMIN, "api")
HIDDEN = ["public.projects.body", "items.score", "code"]
WISHES = [
    "projects where body like 'a%'",
    "public.projects where body like 'a%'",
    'projects where "body" is null',
    "projects where projects.body > 'm'",
    "projects where id = 1 and (not (body between 'a' and 'b') or id = 2)",
    "projects where 'x' = body",
    "projects where body = body",
    "items where score in (1, 2)",
    "projects where code = 'code-1'",
    "PROJECTS where BODY like 'a%'",
]


@pytest.fixture
def service(application: Application) -> BackupService:
    made = application.service(restore={"sensitive": HIDDEN})
    made.backups.create(ACME, ADMIN)
    application.wreck(ACME)
    return made


def calls(service: BackupService) -> list[Callable[[UserContext, RestoreRequest], Any]]:
    return [
        lambda user, request: service.restores.plan("latest", ACME, user, request),
        lambda user, request: service.approvals.request_restore("latest", ACME, user, request, reason="why"),
        lambda user, request: service.restore_backup("latest", ACME, user, request=request, validate_only=True),
    ]


@pytest.mark.parametrize("rows", WISHES)
def test_no_condition_is_asked_of_what_is_masked(service: BackupService, rows: str) -> None:
    """In any spelling, alone or beside others, in a plan or in what somebody else would approve."""
    for call in calls(service):
        with pytest.raises(AccessDenied, match="export"):
            call(EVE, RestoreRequest(rows=rows))


def test_the_mask_is_lifted_for_those_who_may_export(service: BackupService) -> None:
    """An operator's samples have none of the values, an admin's condition and an admin's samples do."""
    for call in calls(service):
        with pytest.raises(AccessDenied, match="export"):
            call(EVE, RestoreRequest(samples=5, show_sensitive=True))
    plan = service.restores.plan("latest", ACME, EVE, RestoreRequest(samples=5))
    assert "ruined" not in repr(plan)
    shown = service.restores.plan("latest", ACME, ANN, RestoreRequest(samples=5, show_sensitive=True))
    assert "ruined" in repr(shown)
    assert service.restores.plan("latest", ACME, ANN, RestoreRequest(rows=WISHES[0])).tenant_id == ACME


def test_other_columns_are_asked_as_before(service: BackupService) -> None:
    """Also one of the same name in another table."""
    for rows in ("projects where id in (2, 4)", "notes where body = 'ruined'", "items where title like 'item%'"):
        assert service.restores.plan("latest", ACME, EVE, RestoreRequest(rows=rows)).tenant_id == ACME
