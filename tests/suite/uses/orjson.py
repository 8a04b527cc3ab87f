"""Values and dates, written and read back."""

import datetime

import orjson

value = {"text": "größer", "list": [1, 2.5, None, True]}
assert orjson.loads(orjson.dumps(value)) == value
assert (
    orjson.dumps(datetime.datetime(2026, 1, 2), option=orjson.OPT_NAIVE_UTC) == b'"2026-01-02T00:00:00+00:00"'
)
