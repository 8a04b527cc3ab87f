"""A time zone from the package, where the system has none."""

import datetime
import zoneinfo

zoneinfo.reset_tzpath([])
summer = datetime.datetime(2026, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Zurich"))
assert summer.utcoffset() == datetime.timedelta(hours=2)
