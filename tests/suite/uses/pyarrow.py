"""A table through Parquet, Feather and CSV, and a computation."""

import io
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, dataset, feather, parquet

table = pa.table({"n": list(range(5000)), "text": ["a", "b"] * 2500})
folder = Path(tempfile.gettempdir())
parquet.write_table(table, folder / "t.parquet")
assert parquet.read_table(folder / "t.parquet").equals(table)
assert dataset.dataset(folder / "t.parquet").count_rows(filter=pc.field("n") > 4990) == 9
feather.write_feather(table, folder / "t.feather")
assert feather.read_table(folder / "t.feather", memory_map=True).equals(table)
assert csv.read_csv(io.BytesIO(b"a,b\n1,2\n")).to_pydict() == {"a": [1], "b": [2]}
assert pc.sum(table["n"]).as_py() == sum(range(5000))
