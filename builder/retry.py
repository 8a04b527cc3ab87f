"""What of HTTP's refusals may be over in a moment, and how long a server asks us to wait."""

from __future__ import annotations

import email.utils
from collections.abc import Mapping

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses of what may pass."""

_LONGEST_WAIT_S = 60.0
"""However long a server asks us to wait."""


def retry_after_s(headers: Mapping[str, str]) -> float:
    """The seconds that Retry-After asks for, as a number or a date (RFC 9110, 10.2.3); a minute at most.

    A date counts from the answer's own Date: clocks differ. 0 where the header is not there, or says nothing.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return min(float(text), _LONGEST_WAIT_S)
    try:
        until = email.utils.parsedate_to_datetime(text)
        since = email.utils.parsedate_to_datetime(headers.get("Date", ""))
        return min(max(0.0, (until - since).total_seconds()), _LONGEST_WAIT_S)
    except (TypeError, ValueError):
        return 0.0
