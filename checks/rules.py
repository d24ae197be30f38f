"""What the rules beside this file find, and what they leave alone. It is never run: `semgrep scan --test` reads it."""

# ruff: noqa
cursor.execute("SELECT 1 FROM t WHERE slug = %s", (slug,))
# ok: value-quoted-by-hand-in-sql
cursor.execute(f"SELECT count(*) FROM {ident(table)} WHERE slug = {literal(slug)}")
# ruleid: value-quoted-by-hand-in-sql
cursor.execute(f"SELECT 1 FROM t WHERE slug = '{slug}'")
# ruleid: value-quoted-by-hand-in-sql
cursor.execute(f"SELECT 1 FROM t WHERE slug LIKE 'a{slug}%'", ())

# ok: name-quoted-by-hand-in-sql
cursor.execute(f"DROP SCHEMA {ident(schema)}")
# ruleid: name-quoted-by-hand-in-sql
cursor.execute(f'DROP SCHEMA "{schema}"')

# ok: statement-made-by-format
cursor.execute("SELECT %s", (value,))
# ruleid: statement-made-by-format
cursor.execute("SELECT 1 FROM %s" % table)
# ruleid: statement-made-by-format
cursor.execute("SELECT 1 FROM {}".format(table))
# ruleid: statement-made-by-format
cursor.execute("SELECT 1 FROM " + table)

# ok: expression-of-others
re.fullmatch(r"[a-z]+", text)
# ruleid: expression-of-others
re.compile(pattern)
# ruleid: expression-of-others
re.search(f"^{prefix}", text)

# ok: module-from-the-callers-folder
subprocess.run([sys.executable, "-P", "-m", "http.server"])
# ruleid: module-from-the-callers-folder
subprocess.run([sys.executable, "-m", "http.server"])
# ruleid: module-from-the-callers-folder
os.execv(sys.executable, [sys.executable, "-c", program])

try:
    work()
except Exception as error:
    # ruleid: traceback-shown
    traceback.print_exc()
    # ruleid: traceback-shown
    log.exception("It failed")
    # ruleid: error-of-others-shown
    print(f"It failed: {error}")
    # ruleid: error-of-others-shown
    log.warning("It failed: %s", error)
    # ok: error-of-others-shown
    log.warning("It failed: %s", type(error).__name__)

# ok: header-that-a-client-can-write
headers.get("x-tenant-slug")
# ruleid: header-that-a-client-can-write
headers.get("X-Forwarded-For", "")
# ruleid: header-that-a-client-can-write
request.headers["x-forwarded-proto"]

# ok: token-decoded-unchecked
jwt.decode(token, key, algorithms=allowed)
# ruleid: token-decoded-unchecked
jwt.decode(token, options={"verify_signature": False})

# ok: server-not-verified
httpx.Client(verify=context, follow_redirects=False)
# ruleid: server-not-verified
httpx.get(url, follow_redirects=True)
# ruleid: server-not-verified
httpx.get(url, verify=False)

# ok: object-read-without-bound
repository.store.get(key, most_bytes(key))
# ok: object-read-without-bound
stats.get(key)
# ruleid: object-read-without-bound
repository.store.get(key)
# ruleid: object-read-without-bound
self._store.get_with_etag(key)

# ok: redirect-followed
OPENER.open(request)
# ruleid: redirect-followed
urllib.request.urlopen(request)
