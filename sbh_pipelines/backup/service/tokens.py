"""The service's call that makes a bearer token: an auditor asks who made which, so it is recorded before it is handed out."""

from sbh_pipelines.backup.service.gate import Gate
from sbh_pipelines.placement import platform_tenant
from sbh_pipelines.security.policy import UserContext
from sbh_pipelines.security.tokens import open_tokens


class TokenIssue:
    """Bearer tokens of the local signing key."""

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
        token = tokens.issue(user_id, tenant_id, role, ttl_s, audience)
        claims = tokens.inspect(token).claims
        props = {
            "jti": claims["jti"],
            "for": user_id,
            "tenant": tenant_id,
            "role": claims["role"],
            "exp": claims["exp"],
        }
        self._site.track(platform_tenant(self._site.settings), "token.issued", user_ctx.user_id, props)
        return token
