"""The files that rows refer to are those of the rows of the moment, whatever the rows are now."""

import re
from pathlib import Path

from sbh_pipelines.backup.contents.json_lines import read_lines
from sbh_pipelines.backup.contents.manifest import Manifest
from sbh_pipelines.backup.contents.manifests import read_component
from sbh_pipelines.model import TenantId
from sbh_pipelines.repository.format import DATABASE
from sbh_pipelines_tests.backup.create.moment.recovered import Recovered, recovered_application
from sbh_pipelines_tests.support.journal import Rows, logical_server

FILES = {"references": [{"table": "projects", "column": "body"}, {"table": "items", "column": "title"}]}


def test_references_are_found_in_the_rows(tmp_path: Path) -> None:
    with logical_server() as server, recovered_application(server, tmp_path, files=FILES) as application:
        first = application.keep()
        odd = application.do(
            r"UPDATE projects SET body = E'a\\tab\t' || id WHERE id % 2 = 0; UPDATE projects SET body = 'é/' || id WHERE id = 3"
        )
        other = application.do("UPDATE comments SET title = 'no file'")
        gone = application.do("DELETE FROM items WHERE id < 20; UPDATE projects SET body = NULL")
        for kept in (first, odd, other, gone):
            for tenant in (1, 2):
                manifest = application.recover(tenant, kept.at)
                assert referenced(application, tenant, manifest) == expected(kept.rows[tenant])
        part = application.recover(1, odd.at, tables=("items",))
        only = {table: rows if table == "public.items" else {} for table, rows in odd.rows[1].items()}
        assert referenced(application, 1, part) == expected(only)


def expected(rows: Rows) -> list[str]:
    bodies = [line.split(b"\t")[3] for line in rows["public.projects"].values()]
    titles = [line.split(b"\t")[2] for line in rows["public.items"].values()]
    plain = {
        re.sub(rb"\\(.)", lambda m: {b"t": b"\t"}.get(m[1], m[1]), one) for one in (*bodies, *titles) if one != rb"\N"
    }
    return [key.decode() for key in sorted(plain)]


def referenced(application: Recovered, tenant: int, manifest: Manifest) -> list[str]:
    slug = TenantId(manifest.tenant_id)
    with application.site().repository(application.service.tenants.find(slug)) as repository:
        repository.load_index()
        component = read_component(repository, manifest, DATABASE)
        return [line["key"] for line in read_lines(repository, component.reference_keys)]
