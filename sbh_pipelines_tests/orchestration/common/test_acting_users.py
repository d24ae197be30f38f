"""For whom a run acts: the user in its tags, with that user's role and tenant."""

import pytest

from sbh_pipelines.errors import AccessDenied
from sbh_pipelines.orchestration.common.resources import same_user, tags_of, user_of
from sbh_pipelines.security.policy import Role, UserContext


def test_tags_and_users_are_each_others_mirror():
    """What the guard writes, the run reads."""
    issued = UserContext("c", "*", Role.ADMIN, "dagster", issued_by=("ann", "os:root"))
    for user in (
        UserContext("ann", "*", Role.ADMIN, "dagster"),
        UserContext("b", "tenant-1", Role.VIEWER, "dagster"),
        issued,
    ):
        assert user_of(tags_of(user)) == user
        assert same_user({**tags_of(user), "other": "x"}) == tags_of(user)


def test_runs_without_the_tags_are_of_schedules_and_of_whoever_runs_dagster():
    """They may do everything, as before."""
    assert user_of({}) == UserContext("dagster", "*", Role.ADMIN, "dagster")
    assert user_of({"user": "ada"}) == UserContext("ada", "*", Role.ADMIN, "dagster")


@pytest.mark.parametrize(
    "tags",
    [
        {"sbh/role": "admin"},
        {"sbh/tenant": "*"},
        {"sbh/role": "root", "sbh/tenant": "*"},
        {"sbh/role": "ADMIN", "sbh/tenant": "*"},
        {"sbh/role": "", "sbh/tenant": "*"},
        {"sbh/role": "admin", "sbh/tenant": ""},
        {"sbh/role": "admin", "sbh/tenant": "*", "sbh/issued_by": "ann"},
        {"sbh/role": "admin", "sbh/tenant": "*", "sbh/issued_by": "[1]"},
    ],
)
def test_tags_that_say_half_of_it_give_no_rights(tags):
    """Rather than the rights of a run without any."""
    with pytest.raises(AccessDenied):
        user_of({"user": "eve", **tags})


def test_a_run_may_do_what_its_user_may(run, fake):
    """The service is asked with the user of the tags, in every step that asks."""
    asked = []
    fake.prune = lambda tenant, user, **_: asked.append(user) or {"tenant_id": tenant, "note": "nothing"}
    run("prune_job", partition_key="tenant-1", tags={"user": "olga", "sbh/role": "operator", "sbh/tenant": "tenant-1"})
    assert asked == [UserContext("olga", "tenant-1", Role.OPERATOR, "dagster")]
