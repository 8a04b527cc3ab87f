"""A frame grouped, joined, resampled in a time zone, written as CSV and read back."""

import io

import pandas as pd

frame = pd.DataFrame({"city": ["Oslo", "Bern", "Oslo", "Rome"], "sold": [3, 5, 4, 2]})
sums = frame.groupby("city")["sold"].agg(["sum", "mean"])
assert sums.loc["Oslo", "sum"] == 7
joined = frame.merge(pd.DataFrame({"city": ["Oslo", "Rome"], "land": ["NO", "IT"]}), on="city", how="left")
assert joined["land"].isna().sum() == 1
series = pd.Series(range(48), index=pd.date_range("2026-03-28", periods=48, freq="h", tz="Europe/Rome"))
assert series.resample("D").sum().iloc[0] == sum(range(24))
assert pd.read_csv(io.StringIO(frame.to_csv(index=False))).equals(frame)
