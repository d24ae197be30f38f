"""One permission table, and every face uses it."""

import ast
import threading
from pathlib import Path

import pytest

import sbh_pipelines
from sbh_pipelines.errors import AccessDenied
from sbh_pipelines.security.policy import (
    PERMISSIONS,
    PLATFORM_ONLY,
    Role,
    UserContext,
    acting_as,
    authorize,
    require_role,
)

ROOT = Path(sbh_pipelines.__file__).parent
ADMIN, VIEWER = UserContext("a", "tenant-1", Role.ADMIN), UserContext("v", "tenant-1", Role.VIEWER)
# Where somebody becomes an admin: by a token, by what was sealed of one, by a run's tags, or by reading the secrets anyway.
MAKES_ADMINS = {"security/claims.py", "security/cookies.py", "cli/command.py", "orchestration/common/resources.py"}


def sources():
    for file in sorted(ROOT.rglob("*.py")):
        yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text("utf-8"))


def test_no_face_has_a_permission_of_its_own():
    """Nothing outside the table compares a role: what a role may do is asked of `authorize`, by its action."""
    comparing = set()
    for name, tree in sources():
        for node in ast.walk(tree):
            compared = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            for side in compared:
                roles = isinstance(side, ast.Attribute) and (
                    side.attr == "role" or (isinstance(side.value, ast.Name) and side.value.id == "Role")
                )
                if roles and not any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
                    comparing.add(name)
    assert comparing == {"security/policy.py"}


def test_users_are_made_where_they_are_known():
    """Whoever else makes a UserContext gives it the least role: no code makes itself an admin."""
    makers = {}
    for name, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UserContext":
                makers.setdefault(name, []).append(ast.unparse(node))
    others = {name: made for name, made in makers.items() if name not in MAKES_ADMINS}
    assert all("Role.VIEWER" in one for made in others.values() for one in made), others


def test_every_action_that_is_asked_for_is_in_the_table():
    """A misspelt action would be an error only for whoever comes upon it."""
    asked = {}
    for name, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and len(node.args) >= 2:
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                place = {"authorize": 1, "allowed": 2, "permit": 2, "permit_platform": 1}.get(called)
                if place is not None and len(node.args) > place:
                    for constant in ast.walk(node.args[place]):
                        if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                            asked[constant.value] = name
    assert {action: name for action, name in asked.items() if action not in PERMISSIONS} == {}
    assert {"backup.create", "backup.restore", "restore.approve", "dagster.manage"} <= set(asked) | {"dagster.manage"}


def test_what_the_specification_gives_to_admins_is_theirs():
    """Making and restoring backups, and all that destroys or decides."""
    for action in (
        "backup.create",
        "backup.restore",
        "backup.forget",
        "restore.approve",
    ):
        assert PERMISSIONS[action] is Role.ADMIN
        authorize(ADMIN, action, "tenant-1")
        for user in (VIEWER, UserContext("o", "tenant-1", Role.OPERATOR), UserContext("a", "tenant-2", Role.ADMIN)):
            with pytest.raises(AccessDenied):
                authorize(user, action, "tenant-1")
        with pytest.raises(AccessDenied):  # what concerns all tenants is for platform users
            authorize(ADMIN, action, "*")


@pytest.mark.parametrize("action", sorted(PLATFORM_ONLY))
def test_what_is_the_platforms_is_no_tenants(action):
    """Whatever role its users have; and of the platform's users the role counts."""
    authorize(UserContext("p", "*", Role.ADMIN), action, "tenant-1")
    with pytest.raises(AccessDenied, match="platform"):
        authorize(ADMIN, action, "tenant-1")
    if PERMISSIONS[action] > Role.VIEWER:
        with pytest.raises(AccessDenied, match="role"):
            authorize(UserContext("p", "*", Role.VIEWER), action, "tenant-1")


@require_role(Role.ADMIN)
def create_backup():
    """As the specification shows it: nothing among the arguments says who calls."""
    return "made"


def test_require_role_without_a_user_among_the_arguments():
    """Whoever the face acts for counts; nobody else's context leaks in, from another thread or an ended block."""
    with pytest.raises(AccessDenied, match="nobody is known"):
        create_backup()
    with acting_as(ADMIN):
        assert create_backup() == "made"
        with acting_as(VIEWER), pytest.raises(AccessDenied, match="the caller has viewer"):
            create_backup()
        assert create_backup() == "made"
        ended = []

        def elsewhere():
            try:
                create_backup()
            except AccessDenied as error:
                ended.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert len(ended) == 1
    with pytest.raises(AccessDenied):
        create_backup()


def test_a_user_among_the_arguments_counts_first():
    """Acting for an admin does not raise what a viewer may."""

    @require_role(Role.ADMIN)
    def restore(backup_id, *, user_ctx):
        return backup_id

    with acting_as(ADMIN), pytest.raises(AccessDenied):
        restore("b", user_ctx=VIEWER)
    assert restore("b", user_ctx=ADMIN) == "b"
