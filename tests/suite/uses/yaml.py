"""A document written by libyaml and read back."""

import yaml

value = {"list": [1, 2.5, None, True], "text": "größer\nals", "deep": {"a": [{}]}}
assert yaml.load(yaml.dump(value, Dumper=yaml.CSafeDumper), Loader=yaml.CSafeLoader) == value
assert yaml.safe_load("when: 2026-01-02")["when"].year == 2026
