"""A session with the application's database.

connection   a session, prepared, or one that only looks; driver's errors become ours here
driver       cursors and errors of psycopg2, without what may be of a row
pinned       which settings a session has, and why it does not have the others
search_path  where our own SQL finds names, and where code of the application does
pooler       a pooler in between: noticed before anything is set
refusals     why a connection is not made, and what mends it
sqlstate     what the server's error codes mean: does it pass, what mends it
functions    the functions that sessions call, and the GRANTs for those that a site closed
copying      COPY in and out
tls          verified TLS wherever the server is another machine
snapshot     one exported snapshot that several connections read
sql          quoting of names and values
encodings    text of databases in other encodings than UTF-8, for people
programs     pg_dump
"""
