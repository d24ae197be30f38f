"""The REST API: the specification's endpoints, and what users need around them; and the console. Started by `sbh serve`.

A *call* is one request, by whom and for which tenant. An *operation* is long work: a run of Dagster that a call launched. A
*problem* is the answer to a call that failed (RFC 9457).

    app      what every request passes first, and the threads it works in
    routes   the endpoints, a file per noun
    console  pages for people, made of the same answers
    runs     a call becomes a run: claimed, launched once, watched, cancelled
    schema   bodies, answers, pages, problems, the OpenAPI document

Request -> app -> routes -> the service, or runs -> schema -> answer. Nothing here decides about backups or permissions: the
service answers, and refuses. Dagster is reached through GraphQL, never imported.
"""
