"""A tenant's user wants to know how busy the whole database is, which server it is and what it is called: log positions, transaction
ids, the system identifier, the database's name.

The API keeps all of a recovery point but its time from tenants' users, in every answer, and exports hold the time only.
"""

import json
from typing import Any

from sbh_pipelines.security.policy import Role
from sbh_pipelines_tests.support.endpoints import ENDPOINTS
from sbh_pipelines_tests.support.servers import Server

OF_THE_SERVER = {"snapshot", "lsn", "system_identifier", "timeline", "server_version", "database", "started"}


def points(document: Any) -> list[dict[str, Any]]:
    """All recovery points in it, however deep."""
    if isinstance(document, dict):
        own = [value for name, value in document.items() if name == "recovery_point" and isinstance(value, dict)]
        return own + [point for value in document.values() for point in points(value)]
    return [point for entry in document for point in points(entry)] if isinstance(document, list) else []


def test_no_answer_says_it(lonely_server: Server, backed_up: str) -> None:
    with lonely_server.client("*", slug="tenant-1") as platform:
        known = platform.get(f"/api/backup/{backed_up}").json()["recovery_point"]
    assert known.keys() >= OF_THE_SERVER
    secret = [str(known[name]) for name in ("lsn", "system_identifier", "started")]
    with lonely_server.client("tenant-1", Role.ADMIN) as client:
        answers = {
            (e.method, e.path, json.dumps(e.body)): client.request(e.method, e.url(backed_up), json=e.body)
            for e in ENDPOINTS
            if not e.platform_only
        }
        answers["GET", "audit", ""] = client.get("/api/audit", params={"limit": 200})
    assert {what for what, answer in answers.items() if any(text in answer.text for text in secret)} == set()
    found = [point for answer in answers.values() for point in points(answer.json())]
    assert len(found) >= 3
    assert all(point == {"time": known["time"]} for point in found)
