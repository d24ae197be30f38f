"""A session with the application's database.

connection   pinned settings; the one place where psycopg2's errors become ours
tls          verified TLS wherever the server is another machine
snapshot     one exported snapshot that several connections read
sql          quoting of names and values
encodings    text of databases in other encodings than UTF-8, for people
programs     pg_dump and psql
"""
