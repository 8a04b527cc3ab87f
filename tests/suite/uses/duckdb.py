"""A query over a generated table, on several threads, and a database file."""

import tempfile
from pathlib import Path

import duckdb

sums = duckdb.sql("select i % 3 as k, sum(i) as s from range(300000) t(i) group by k order by k").fetchall()
assert [row[0] for row in sums] == [0, 1, 2]
assert sum(row[1] for row in sums) == sum(range(300000))
path = Path(tempfile.gettempdir(), "data.duckdb")
with duckdb.connect(path) as database:
    database.execute("create table t as select range as n from range(1000)")
with duckdb.connect(path, read_only=True) as database:
    assert database.execute("select count(*) from t").fetchone() == (1000,)
