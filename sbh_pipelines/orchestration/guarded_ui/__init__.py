"""Dagster's own web UI behind a login. Open-source Dagster has none: its port is open to everybody who reaches it.

The guard is ASGI middleware around Dagster's application, so that nothing of it, websockets included, is reached past it:

guard       who asks, from which page, for which path; everything else is refused
sessions    who is logged in
login       the pages of logging in and out, by a token or at an OpenID Connect issuer (`security/code_flow.py`)
request     a GraphQL request as Dagster reads it
operations  whether its user may do that, and as whom; `mutations` is the table of what needs which permission
sockets     the same for GraphQL over websockets
server      Dagster's application, guarded, as a process: `python -m sbh_pipelines.orchestration.guarded_ui`

It relies on Dagster's HTTP interface and GraphQL schema, not on its internals, and refuses to start with a version that
it was not tried with.
"""
