"""What Lambda hands over: a request as it stands, or an HTTP request that a front of Lambda's has wrapped.

Function URLs and API Gateway's HTTP APIs wrap by payload format 2.0, its REST APIs by 1.0, load balancers by
one of their own: https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html and the pages beside it.
All of them have `requestContext`, which no client can write. Pure.
"""

from _json import encode_basestring as quoted  # leaves what is not ASCII as it is
from binascii import a2b_base64

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from typing import Any


class Malformed(Exception):
    """The wrapped request cannot be read: str() is why, for the one who sent it."""


class HttpEvent:
    """A wrapped HTTP request. What is not as it should be is empty."""

    def __init__(self, event: "dict[str, Any]", context: "dict[str, Any]") -> None:
        self._event = event
        self._context = context
        http = context.get("http")
        method = http.get("method") if isinstance(http, dict) else event.get("httpMethod")
        self.method = method.upper() if isinstance(method, str) else ""

    def header(self, name: str) -> str:
        """The value of the header `name`, in lower case; parted by commas where it came more than once."""
        values: list[str] = []
        for key in ("headers", "multiValueHeaders"):
            headers = self._event.get(key)
            for other, value in headers.items() if isinstance(headers, dict) else ():
                if other.lower() == name:
                    values += [part for part in (value if isinstance(value, list) else [value]) if part]
            if values:  # format 1.0 has the same in both
                break
        return ",".join(value for value in values if isinstance(value, str))

    def body(self) -> bytes:
        """The body; raises Malformed."""
        body = self._event.get("body")
        if body is None:
            return b""
        if not isinstance(body, str):
            raise Malformed("the event's body is no text")
        if not self._event.get("isBase64Encoded"):
            return body.encode("utf-8", "surrogatepass")
        try:
            return a2b_base64(body.encode(), strict_mode=True)
        except ValueError:
            raise Malformed("the event's body is not Base64") from None

    def vouched_for(self) -> bool:
        """Whether AWS checked who sent it: IAM, an authorizer, or a key of API Gateway's."""
        identity, authorizer = self._context.get("identity"), self._context.get("authorizer")
        known = [identity.get(key) for key in ("userArn", "apiKeyId")] if isinstance(identity, dict) else []
        if isinstance(authorizer, dict):  # without one, format 1.0 has {"claims": null, "scopes": null}
            known += authorizer.values()
        return any(known)


def http_event(event: "Any") -> HttpEvent | None:
    """The HTTP request in an event; None where it is none."""
    context = event.get("requestContext") if isinstance(event, dict) else None
    return HttpEvent(event, context) if isinstance(context, dict) else None


def http_answer(status: int, body: bytes, headers: "dict[str, str] | None" = None) -> bytes:
    """An HTTP answer with a body of JSON, as each of the fronts takes it."""
    fields = {"content-type": "application/json; charset=utf-8"} | (headers or {})
    pairs = ", ".join(f"{quoted(name)}: {quoted(value)}" for name, value in fields.items())
    start = f'"statusCode": {status}, "headers": {{{pairs}}}, "isBase64Encoded": false'
    return f'{{{start}, "body": {quoted(body.decode())}}}'.encode()


def error_body(kind: str, message: str) -> bytes:
    """An error as every runtime of Lambda's reports it."""
    text = quoted(message.encode("utf-8", "replace").decode())
    return f'{{"errorMessage": {text}, "errorType": {quoted(kind)}, "stackTrace": []}}'.encode()


def time_left_s(deadline_ms: int | None, now_ms: float, margin_s: float, most_s: float) -> float:
    """How long a run may take: `most_s` seconds, but not beyond the deadline less what the answer takes.

    Both are times of the wall clock, which jumps when a frozen environment goes on: it may come to less than
    nothing.
    """
    if deadline_ms is None:
        return most_s
    return min(most_s, (deadline_ms - now_ms) / 1000 - margin_s)
