"""Random damage to one tenant's rows in the application of `sample_application.py`: the same for the same seed."""

import random
from typing import Any

from psycopg2.extras import execute_values

# What a damaged row's time of change is: never touched, newer work, or set back by whatever did the damage.
_TIMES = ("2026-01-01Z", "2026-02-01Z", "2025-12-01Z")


class RandomDamage:
    """Does the damage; every statement leaves all constraints satisfied."""

    def __init__(self, cursor: Any, rng: random.Random, key: int, spare: frozenset[str]) -> None:
        self._cursor, self._rng, self._key, self._spare = cursor, rng, key, spare
        self._new = 100 * key

    def run(self) -> None:
        if "projects" not in self._spare:
            self._delete_projects()
        if "tasks" not in self._spare:
            self._delete_tasks()
        if "comments" not in self._spare:
            self._do("DELETE FROM comments WHERE id = ANY(%s)", self._some("SELECT id FROM comments c", 6))
        self._change()
        self._add()
        self._notes()

    def _do(self, statement: str, *arguments: Any) -> None:
        self._cursor.execute(statement, arguments)

    def _some(self, query: str, count: int) -> list[Any]:
        """That many of the tenant's rows, at random; `c` is a table with a project_id or is `projects`."""
        column = "id" if "FROM projects" in query else "project_id"
        self._cursor.execute(
            f"{query} WHERE {column} IN (SELECT id FROM projects WHERE tenant_id = {self._key}) ORDER BY 1"
        )
        found = self._cursor.fetchall()
        picked = self._rng.sample(found, min(count, len(found)))
        return [row if len(row) > 1 else row[0] for row in picked]

    def _when(self) -> str:
        return self._rng.choice(_TIMES)

    def _delete_projects(self) -> None:
        gone = self._some("SELECT id FROM projects", 3)
        self._do("UPDATE projects SET lead = NULL, updated_at = %s WHERE lead = ANY(%s)", self._when(), gone)
        for table in ("comments", "tasks"):
            self._do(f"DELETE FROM {table} WHERE project_id = ANY(%s)", gone)
        self._do("DELETE FROM projects WHERE id = ANY(%s)", gone)

    def _delete_tasks(self) -> None:
        for project, nr in self._some("SELECT project_id, nr FROM tasks", 5):
            for table in ("comments", "tasks"):
                self._do(f"DELETE FROM {table} WHERE project_id = %s AND nr = %s", project, nr)

    def _change(self) -> None:
        for project in self._some("SELECT id FROM projects", 5):
            self._do("UPDATE projects SET body = %s, updated_at = %s WHERE id = %s", "ruined", self._when(), project)
        one, other = self._some("SELECT id FROM projects", 2)
        self._do("SELECT id, code FROM projects WHERE id IN (%s, %s)", one, other)
        codes, when = dict(self._cursor.fetchall()), self._when()
        for project, code in ((one, "free"), (other, codes[one]), (one, codes[other])):  # unique values change places
            self._do("UPDATE projects SET code = %s, updated_at = %s WHERE id = %s", code, when, project)
        leader, follower = self._some("SELECT id FROM projects", 2)
        self._do("UPDATE projects SET lead = %s, updated_at = %s WHERE id = %s", leader, self._when(), follower)
        for project, nr in self._some("SELECT project_id, nr FROM tasks", 6):
            values = (f"title {self._rng.random()}", self._when(), project, nr)
            self._do("UPDATE tasks SET title = %s, updated_at = %s WHERE project_id = %s AND nr = %s", *values)
        for comment in self._some("SELECT id FROM comments", 5):
            ((project, nr),) = self._some("SELECT project_id, nr FROM tasks", 1)
            moved = (project, nr, self._when(), comment)  # to another task
            self._do("UPDATE comments SET project_id = %s, nr = %s, updated_at = %s WHERE id = %s", *moved)
        self._do("UPDATE tenants SET settings = '[1]', updated_at = %s WHERE id = %s", self._when(), self._key)
        for n in self._rng.sample(range(1, 7), 3):
            option = (self._when(), self._key, f"option {n}")
            self._do("UPDATE options SET value = 'other', updated_at = %s WHERE tenant_id = %s AND name = %s", *option)
        self._do(
            "DELETE FROM options WHERE tenant_id = %s AND name = %s", self._key, f"option {self._rng.randint(1, 6)}"
        )

    def _add(self) -> None:
        if "projects" not in self._spare:
            (lead,) = self._some("SELECT id FROM projects", 1)
            for n in (1, 2):
                values = (self._new + n, self._key, f"new {self._key} {n}", lead if n == 1 else self._new + 1)
                self._do("INSERT INTO projects VALUES (%s, %s, %s, %s, 1, 'new', '2026-02-01Z')", *values)
        if "tasks" not in self._spare:
            for project in self._some("SELECT id FROM projects", 3):
                self._do("INSERT INTO tasks VALUES (%s, 9, 'new', NULL, '2026-02-01Z') ON CONFLICT DO NOTHING", project)
        if "comments" not in self._spare:
            tasks = [(*task, "new", "2026-02-01Z") for task in self._some("SELECT project_id, nr FROM tasks", 5)]
            execute_values(self._cursor, "INSERT INTO comments (project_id, nr, body, updated_at) VALUES %s", tasks)
        self._do("INSERT INTO options VALUES (%s, 'new', '1', '2026-02-01Z')", self._key)

    def _notes(self) -> None:
        """Rows without a key: equal ones are told apart by where they lie only."""
        one_of = f"SELECT ctid FROM notes WHERE tenant_id = {self._key} ORDER BY ctid OFFSET %s LIMIT 1"
        for _ in range(6):
            self._do(f"DELETE FROM notes WHERE ctid = ({one_of})", self._rng.randrange(20))
        for _ in range(3):
            self._do(f"UPDATE notes SET body = 'ruined' WHERE ctid = ({one_of})", self._rng.randrange(20))
        self._do(f"INSERT INTO notes SELECT tenant_id, body FROM notes WHERE tenant_id = {self._key} LIMIT 4")
