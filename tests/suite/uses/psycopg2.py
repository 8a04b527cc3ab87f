"""What needs no server: connection strings, quoting, and the refusal where there is none."""

import psycopg2
from psycopg2.extensions import adapt, libpq_version, make_dsn, parse_dsn

dsn = make_dsn(host="127.0.0.1", port=1, dbname="none", user="none", connect_timeout=5)
assert parse_dsn(dsn)["host"] == "127.0.0.1"
assert adapt([1, None]).getquoted() == b"ARRAY[1,NULL]"
assert libpq_version() > 100000
answer = ""
try:
    psycopg2.connect(dsn)
except psycopg2.OperationalError as error:
    answer = str(error)
assert "refused" in answer
