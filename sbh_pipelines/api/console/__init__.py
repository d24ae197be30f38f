"""The console: pages for people, below `/console`, served by `sbh serve` beside the REST API.

A *page* is made on the server of what the API's own routes answer, or of the service's answer where the API has no route: so
nothing can be done here that the API cannot, roles are the policy's, and what is read is the event that it is anyway. A *visit*
is one request, by whom and for which tenant. No script is needed; one small file keeps the page of an operation up to date.

    app        the application: its routes, and what errors look like
    sign_in    signing in, by a token or at the issuer, and out
    session    who is signed in: a cookie, and forms that only our own pages can send
    visit      one request as pages see it, and a call of the API within it
    render     templates, and how figures are written
    fleet      all tenants, those first that would lose most
    tenant     one tenant: recovery points, restores, holds, drills, the journal, copies
    timeline   the same in a picture
    backup     what is in a backup: tables, rows, files
    download   a file on its way out of it: bounded, and closed whatever becomes of it
    restore    what a restore would do, the restore, how far it is, undoing it
    approval   a second person asked, and the answer
    evidence   the audit trail, the compliance report

Request -> middleware (cookie, rates, body) -> a page -> the API's route -> a template.
"""
