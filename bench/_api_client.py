"""One client of `api.py`, a process of its own: one kept-alive connection, one request after the other.

`{"address", "token", "slugs", "seconds" or "once", "path", "seed"}` -> `{"ms": [...], "bytes"}`. `{slug}`, in the path, is
the tenant's; its header goes with every request.
"""

import http.client
import json
import random
import sys
from time import monotonic, perf_counter
from urllib.parse import urlsplit


def main() -> None:
    request = json.loads(sys.argv[1])
    parts = urlsplit(request["address"])
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    chance, slugs = random.Random(request["seed"]), request["slugs"]
    if request.get("once"):
        slugs = slugs[request["seed"] :: request["once"]]
    spent, received, deadline = [], 0, monotonic() + request.get("seconds", 0)
    waiting = iter(slugs)
    while True:
        if request.get("once"):
            slug = next(waiting, None)
            if slug is None:
                break
        elif monotonic() > deadline:
            break
        else:
            slug = chance.choice(slugs)
        token = request["token"]
        headers = {"Authorization": f"Bearer {token}", "Cookie": f"sbh-console={token}", "X-Tenant-Slug": slug}
        begun = perf_counter()
        connection.request("GET", request["path"], headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        spent.append(round(1000 * (perf_counter() - begun), 2))
        if answer.status != 200:
            raise SystemExit(f"{request['path']} of {slug}: HTTP {answer.status}: {body[:500]!r}")
        received += len(body)
        if (least := request.get("backups")) and body.count(b'"created_at"') < least:
            raise SystemExit(f"{slug} has too few backups: {body[:500]!r}")
    print(json.dumps({"ms": spent, "bytes": received}))


if __name__ == "__main__":
    main()
