"""Write fixtures/repository-vN: run once per format version, `python -m sbh_pipelines_tests.support.make_repository DIR`.

Never run it over an existing fixture: what it is for is that old bytes stay readable.
"""

import base64
import json
import os
import sys
from pathlib import Path

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers.stack import running
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.support import small_app


def main(target: Path) -> None:
    target.mkdir(parents=True)
    key_file = target / "backup.key"
    key_file.write_bytes(base64.b64encode(os.urandom(32)))
    store = target / "store"
    for name, content in small_app.FILES.items():
        file = store / "sbh-files-eu-west-1" / "files" / "north" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    with running(kms=False, fsync=False) as stack, small_app.scratch_database(stack) as (database, connection):
        connection.cursor().execute(small_app.SCHEMA + small_app.ROWS)
        service = BackupService(small_app.settings_for(stack, database, store, key_file))
        user, expected = UserContext("fixture", "*", Role.ADMIN), []
        for changes, kind in (("", "full"), (small_app.CHANGES, "incremental")):
            connection.cursor().execute(changes or "SELECT")
            manifest = service.create_backup("north", user, kind)
            expected.append({"backup_id": manifest["id"], "rows": small_app.tenant_rows(connection, 1)})
    (target / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=1))
    for name in small_app.FILES:  # the live files are not part of the fixture
        (store / "sbh-files-eu-west-1" / "files" / "north" / name).unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
