"""The service's calls that make and revoke bearer tokens, and that put on record who signed in with one: an auditor asks who made
which, so it is recorded before it is handed out.
"""

from datetime import datetime, timedelta

from sbh_pipelines.backup.service.gate import Gate
from sbh_pipelines.backup.site.audit_trails import came_through
from sbh_pipelines.errors import AccessDenied, RequestError, SettingsError
from sbh_pipelines.model import timestamp
from sbh_pipelines.placement import platform_tenant
from sbh_pipelines.security.claims import ISSUED_BY
from sbh_pipelines.security.people import same_name
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext
from sbh_pipelines.security.revocation import Revocation, add_revocation
from sbh_pipelines.security.tokens import open_tokens

_LONGEST_WHY = 200


class TokenIssue:
    """Bearer tokens: those of the local signing key are made here, and any is revoked."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._site = gate, gate.site

    def issue(
        self, user_ctx: UserContext, *, user_id: str, tenant_id: str, role: str, ttl_s: int, audience: str | None = None
    ) -> str:
        """A token of the local signing key, for `ttl_s` seconds; `token.issued` is in the platform's audit trail by then.

        Raises AccessDenied, RequestError, InvalidId, SettingsError (no private key here), and the store's errors where
        it cannot be recorded: then nobody gets it.
        """
        tokens = open_tokens(self._site.settings, self._site.clock)
        self._gate.authorize(user_ctx, "token.issue", tenant_id)
        if not user_ctx.by_system and any(same_name(user_id, name) for name in self._site.settings.auth.services):
            raise AccessDenied(
                "A service's token is not issued with a token",
                on=user_id,
                why="services of auth.services act for any user",
                remedy="issue it on the host that has the signing key, without SBH_TOKEN",
            )
        token = tokens.issue(user_id, tenant_id, role, ttl_s, audience, user_ctx)
        claims = tokens.inspect(token).claims
        props = {
            "jti": claims["jti"],
            "for": user_id,
            "tenant": tenant_id,
            "role": claims["role"],
            "exp": claims["exp"],
            "issued_by": claims.get(ISSUED_BY, []),
        }
        self._site.track(platform_tenant(self._site.settings), "token.issued", user_ctx.user_id, props)
        return token

    def revoke(
        self,
        user_ctx: UserContext,
        *,
        token_id: str | None = None,
        user_id: str | None = None,
        issued_by: str | None = None,
        before: datetime | None = None,
    ) -> Revocation:
        """Tokens that are believed no longer, in a line of `auth.revoked_file`; then `token.revoked` in the platform's trail.

        One of: the token of this id; those of a user; those that a user issued, themselves or through others. `before`: only
        those issued before this time; None: before now. Raises AccessDenied, RequestError, SettingsError.
        """
        self._gate.authorize(user_ctx, "token.revoke", ALL_TENANTS)
        if sum(map(bool, (token_id, user_id, issued_by))) != 1 or (token_id and before):
            raise RequestError(
                "Say what is revoked", remedy="one token by its id, or the tokens of a user, or those a user issued"
            )
        file = self._site.settings.auth.revoked_file
        if file is None:
            raise SettingsError(
                "There is no list of revoked tokens",
                on="auth.revoked_file",
                remedy='name a file that all hosts read which check tokens: revoked_file = "/etc/sbh/revoked", and create it',
            )
        # Times in tokens are whole seconds: one of this very second is one of before.
        until = (before or self._site.clock()) + timedelta(seconds=1, microseconds=-1 if before else 0)
        until = until.replace(microsecond=0)
        rule = Revocation(token_id or "", user_id or "", issued_by or "", None if token_id else until)
        add_revocation(file, rule)
        props = {"jti": token_id, "user": user_id, "issuer": issued_by, "before": timestamp(until)}
        kept = {name: value for name, value in props.items() if value and not (token_id and name == "before")}
        self._site.track(platform_tenant(self._site.settings), "token.revoked", user_ctx.user_id, kept)
        return rule

    def signed_in(self, user_ctx: UserContext) -> None:
        """`ui.signed_in` in the platform's trail: a browser has a session of this user's. Raises what recording raises."""
        came_through(user_ctx.via)
        props = {"tenant": user_ctx.tenant_id, "role": user_ctx.role.name.lower()}
        self._site.track(platform_tenant(self._site.settings), "ui.signed_in", user_ctx.user_id, props)

    def sign_in_denied(self, via: str, why: str, user_ctx: UserContext | None = None) -> None:
        """`access.denied` in the platform's trail: somebody was not let in. Raises what recording raises.

        `why`: never anything of the token. `user_ctx`: whose token it is, if it is believed.
        """
        came_through(via)
        known = {} if user_ctx is None else {"own_tenant": user_ctx.tenant_id, "role": user_ctx.role.name.lower()}
        props = {"action": "ui.sign_in", **known, "why": why[:_LONGEST_WHY]}
        who = "" if user_ctx is None else user_ctx.user_id
        self._site.track(platform_tenant(self._site.settings), "access.denied", who, props)
