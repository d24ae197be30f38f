"""Roles, the caller's context, and the one permission table that every face uses."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from typing import ParamSpec, TypeVar

from sbh_pipelines.errors import AccessDenied

P = ParamSpec("P")
R = TypeVar("R")

ALL_TENANTS = "*"


class Role(IntEnum):
    """Ordered: each role may do what the lesser ones may."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class UserContext:
    """Who asks. `tenant_id` is the only tenant the caller may touch; `*` is a platform user.

    `via` is the face the caller came through (`python`, `cli`, `api`, `console`, `dagster`), for the audit trail. `issued_by`: by
    whose tokens the caller's was issued, nearest first. `by_system`: the operating system says who it is, and no token.
    """

    user_id: str
    tenant_id: str
    role: Role
    via: str = "python"
    issued_by: tuple[str, ...] = ()
    by_system: bool = False


PERMISSIONS: dict[str, Role] = {
    "backup.list": Role.VIEWER,
    "backup.status": Role.VIEWER,
    "backup.validate": Role.OPERATOR,
    "backup.create": Role.ADMIN,
    "backup.restore": Role.ADMIN,
    "restore.into_schema": Role.ADMIN,
    "restore.elsewhere": Role.ADMIN,
    "backup.forget": Role.ADMIN,
    "repository.prune": Role.ADMIN,
    "backup.hold": Role.ADMIN,
    "hold.legal": Role.ADMIN,
    "backup.export": Role.ADMIN,
    "restore.plan": Role.OPERATOR,
    "former_tenant.read": Role.ADMIN,
    "platform.backup": Role.ADMIN,
    "platform.restore": Role.ADMIN,
    "drill.run": Role.ADMIN,
    "report.read": Role.VIEWER,
    "health.read": Role.VIEWER,
    "run.cancel": Role.ADMIN,
    "restore.request": Role.OPERATOR,
    "restore.approve": Role.ADMIN,
    "journal.read": Role.OPERATOR,
    "journal.status": Role.VIEWER,
    "journal.manage": Role.ADMIN,
    "copies.status": Role.VIEWER,
    "copies.run": Role.ADMIN,
    "copies.verify": Role.OPERATOR,
    "copies.forget": Role.ADMIN,
    "copies.promote": Role.ADMIN,
    "audit.read": Role.OPERATOR,
    "audit.export": Role.ADMIN,
    "keys.read": Role.OPERATOR,
    "keys.rotate": Role.ADMIN,
    "tenant.erase": Role.ADMIN,
    "tenant.rehome": Role.ADMIN,
    "tenant.move": Role.ADMIN,
    "token.issue": Role.ADMIN,
    "token.revoke": Role.ADMIN,
    "token.inspect": Role.VIEWER,
    "host.manage": Role.ADMIN,
    "dagster.view": Role.VIEWER,
    "dagster.launch": Role.OPERATOR,
    "dagster.manage": Role.ADMIN,
}

PLATFORM_ONLY = frozenset(
    {
        "restore.into_schema",
        "restore.elsewhere",
        "hold.legal",
        "former_tenant.read",
        "platform.backup",
        "platform.restore",
        "journal.status",
        "journal.manage",
        "copies.run",
        "copies.verify",
        "copies.forget",
        "copies.promote",
        "keys.rotate",
        "tenant.erase",
        "tenant.rehome",
        "tenant.move",
        "token.issue",
        "token.revoke",
        "host.manage",
        "dagster.view",
        "dagster.launch",
        "dagster.manage",
    }
)
"""What touches more than the tenant it is done to, or is done against it: for users of all tenants, whatever role those of the
tenant have.
"""


def authorize(user: UserContext, action: str, tenant_id: str) -> None:
    """Raises AccessDenied unless `user` may do `action` on `tenant_id`."""
    needed = PERMISSIONS[action]
    if user.tenant_id not in (ALL_TENANTS, tenant_id):
        raise AccessDenied(
            f"{action} is not allowed",
            on=tenant_id,
            why="the caller belongs to another tenant",
            remedy="use a context of this tenant",
        )
    if action in PLATFORM_ONLY and user.tenant_id != ALL_TENANTS:
        raise AccessDenied(
            f"{action} is not allowed",
            on=tenant_id,
            why="it is for users of the platform",
            remedy="ask an administrator of the platform",
        )
    if user.role < needed:
        raise AccessDenied(
            f"{action} is not allowed",
            on=tenant_id,
            why=f"it needs the role {needed.name.lower()}, the caller has {user.role.name.lower()}",
            remedy="ask someone with that role",
        )


def allows(user: UserContext, action: str, tenant_id: str) -> bool:
    """Whether `authorize` would let the user do `action` on the tenant."""
    try:
        authorize(user, action, tenant_id)
    except AccessDenied:
        return False
    return True


_acting: ContextVar[UserContext | None] = ContextVar("sbh_acting_user", default=None)


@contextmanager
def acting_as(user: UserContext) -> Iterator[UserContext]:
    """For the length of the block, calls of `require_role` that are given no user are by this one.

    For functions that take no user at all, such as a handler behind a login. Each thread and task has its own.
    """
    before = _acting.set(user)
    try:
        yield user
    finally:
        _acting.reset(before)


def require_role(role: Role) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: the call must be by a user with at least `role`, else AccessDenied.

    That is the UserContext among its arguments (positional or `user_ctx=`); for a call without any, the one of
    `acting_as`. A role says nothing about the tenant: what touches one calls `authorize` as well.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            user = next((a for a in (*args, *kwargs.values()) if isinstance(a, UserContext)), None) or _acting.get()
            if user is None or user.role < role:
                raise AccessDenied(
                    f"{function.__name__} is not allowed",
                    why=f"it needs a user with the role {role.name.lower()}"
                    + (f", the caller has {user.role.name.lower()}" if user else ", and nobody is known to call"),
                    remedy="pass user_ctx with that role, or call it within `acting_as`",
                )
            return function(*args, **kwargs)

        return guarded

    return decorate
