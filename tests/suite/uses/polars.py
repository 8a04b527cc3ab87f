"""A lazy query, and a Parquet file written and read back."""

import tempfile
from pathlib import Path

import polars as pl

frame = pl.DataFrame({"k": [n % 3 for n in range(3000)], "n": range(3000)})
sums = frame.lazy().group_by("k").agg(pl.col("n").sum()).sort("k").collect()
assert sums["n"].sum() == sum(range(3000))
path = Path(tempfile.gettempdir(), "frame.parquet")
frame.write_parquet(path)
assert pl.read_parquet(path).equals(frame)
assert pl.scan_parquet(path).filter(pl.col("n") > 2990).collect().height == 9
