"""The few pages that the guard itself shows, as HTML without scripts, and without anything from other hosts."""

import base64
import hashlib
from html import escape
from urllib.parse import quote

from starlette.responses import HTMLResponse

_STYLE = """
:root { color-scheme: light dark; --ink: #17212e; --dim: #5a6b7f; --line: #d5dde6; --card: #fff; --back: #eef2f6;
        --accent: #1d5fbf; --accent-ink: #fff; --bad: #a4262c; --bad-back: #fdeceb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8edf3; --dim: #9db0c4; --line: #33445a; --card: #17212e; --back: #0d141d; --accent: #6ea8fe;
          --accent-ink: #0d141d; --bad: #ffb3ae; --bad-back: #3a1d1f; } }
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 24px; background: var(--back);
       color: var(--ink); font: 15px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { width: 100%; max-width: 430px; background: var(--card); border: 1px solid var(--line); border-radius: 12px;
       padding: 36px 36px 28px; box-shadow: 0 12px 40px rgb(10 20 40 / 12%); }
.brand { display: flex; align-items: center; gap: 12px; margin-bottom: 22px; font-weight: 600; letter-spacing: .01em; }
.brand svg { flex: none; }
h1 { margin: 0 0 6px; font-size: 22px; line-height: 1.3; font-weight: 650; }
p { margin: 0 0 18px; color: var(--dim); }
label { display: block; margin: 0 0 6px; font-weight: 600; }
input[type=password] { width: 100%; padding: 11px 13px; border: 1px solid var(--line); border-radius: 8px;
       background: var(--back); color: var(--ink); font: 14px/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
button, .button { display: block; width: 100%; margin-top: 16px; padding: 11px 16px; border: 0; border-radius: 8px;
       background: var(--accent); color: var(--accent-ink); font: inherit; font-weight: 600; text-align: center;
       text-decoration: none; cursor: pointer; }
button:hover, .button:hover { filter: brightness(1.08); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
input:focus-visible { outline-width: 2px; outline-offset: -1px; }
.bad { margin: 0 0 18px; padding: 10px 13px; border-radius: 8px; background: var(--bad-back); color: var(--bad); }
.or { display: flex; align-items: center; gap: 12px; margin: 22px 0 16px; color: var(--dim); font-size: 13px; }
.or::before, .or::after { content: ""; flex: 1; border-top: 1px solid var(--line); }
a:not(.button) { color: var(--accent); }
footer { margin-top: 24px; padding-top: 16px; border-top: 1px solid var(--line); color: var(--dim); font-size: 13px; }
code { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_BRAND = (
    '<div class="brand"><svg width="34" height="34" viewBox="0 0 34 34" aria-hidden="true">'
    '<rect width="34" height="34" rx="9" fill="#1d5fbf"/><g fill="none" stroke="#fff" stroke-width="2.2">'
    '<ellipse cx="17" cy="11" rx="8" ry="3.4"/><path d="M9 11v12c0 1.9 3.6 3.4 8 3.4s8-1.5 8-3.4V11"/>'
    '<path d="M9 17c0 1.9 3.6 3.4 8 3.4s8-1.5 8-3.4"/></g></svg>SBH Pipelines</div>'
)


_PROVIDED = "Tokens come from your identity provider."
_ISSUED = "Get one with <code>sbh token issue --user NAME --tenant '*' --role viewer</code>."


def login_page(*, next_path: str, error: str = "", issuer: bool = False, status: int = 200) -> HTMLResponse:
    """`next_path` is where to go afterwards; `issuer`: whether one can log in at the issuer as well."""
    shown = f'<p class="bad" role="alert">{escape(error)}</p>' if error else ""
    single = (
        f'<a class="button" href="/login/issuer?next={escape(_quoted(next_path))}">Continue with single sign-on</a>'
        '<div class="or">or</div>'
        if issuer
        else ""
    )
    body = f"""<h1>Sign in to the web UI</h1>
<p>It shows the runs and backups of all tenants, and is for people who look after all of them.</p>
{shown}{single}<form method="post" action="/login">
<input type="hidden" name="next" value="{escape(next_path)}">
<label for="token">Access token</label>
<input id="token" name="token" type="password" autocomplete="off" spellcheck="false" required{"" if issuer else " autofocus"}>
<button type="submit">Sign in</button>
</form>
<footer>{_PROVIDED if issuer else _ISSUED}
The token is not kept. You stay signed in until it expires, or until you sign out at <code>/logout</code>.</footer>"""
    return _page("Sign in", body, status)


def logout_page(user_id: str, role: str) -> HTMLResponse:
    body = f"""<h1>Signed in</h1>
<p>You are <strong>{escape(user_id)}</strong>, {escape(role)} of all tenants.</p>
<form method="post" action="/logout"><button type="submit" autofocus>Sign out</button></form>
<footer><a href="/">Back to the web UI</a></footer>"""
    return _page("Sign out", body, 200)


def going_page(to: str) -> HTMLResponse:
    """Sends the browser on by itself: the request then comes from this site, and brings the cookie."""
    body = f'<h1>One moment</h1><p><a href="{escape(to)}">Continue</a></p>'
    return _page("One moment", body, 200, f'<meta http-equiv="refresh" content="0;url={escape(to)}">')


def _page(title: str, body: str, status: int, head: str = "") -> HTMLResponse:
    html = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} · SBH Pipelines</title>{head}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{_STYLE}</style></head><body><main>{_BRAND}{body}</main></body></html>'
    )
    policy = (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; form-action 'self'; base-uri 'none';"
        " frame-ancestors 'none'"
    )
    return HTMLResponse(html, status, {"content-security-policy": policy, "cache-control": "no-store"})


def _quoted(path: str) -> str:
    return quote(path, safe="/")
