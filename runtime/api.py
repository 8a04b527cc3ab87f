"""What is answered to which request: dify-sandbox's API, and more, as images/serve/openapi.yaml has it."""

from runtime.answer import (
    BAD_REQUEST,
    INTERNAL,
    TOO_MANY_RUNS,
    UNAVAILABLE,
    failure,
    run_data,
    run_facts,
    success,
    to_json,
)
from runtime.body import Mistake, read_fields
from runtime.ends import PoolDown
from runtime.fields import check_language, read_job
from runtime.http_message import Request, Response
from runtime.image import read_file
from runtime.log import sender
from runtime.loop import Event, Loop
from runtime.metrics import CONTENT_TYPE
from runtime.pool import NoUid
from runtime.sse import EventStream, wants_stream

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from typing import Any

    from runtime.connection import Connection
    from runtime.log import Log
    from runtime.metrics import Metrics
    from runtime.pool import Pool
    from runtime.run import Job, Outcome
    from runtime.settings import Settings

OPENAPI = "/sandbox/openapi.json"
PRIVATE = "/v1/sandbox/"
"""Everything below needs the key."""
HEALTH, METRICS, DOCUMENT = "/health", "/metrics", "/openapi.json"
RUN, INFO = "/v1/sandbox/run", "/v1/sandbox/info"
DEPENDENCIES, UPDATE, REFRESH = (f"/v1/sandbox/dependencies{end}" for end in ("", "/update", "/refresh"))
ROUTES = {
    HEALTH: "GET",
    METRICS: "GET",
    DOCUMENT: "GET",
    INFO: "GET",
    RUN: "POST",
    DEPENDENCIES: "GET",
    UPDATE: "POST",
    REFRESH: "GET",
}
"""The method of each; HEAD goes where GET does, OPTIONS everywhere."""
PROBED = (HEALTH, METRICS)
"""What is asked every few seconds by nobody in particular: not worth a line in the log."""
LIMITS = ("cpu", "memory", "scratch", "output")
STOPPING = "the server is stopping"
MAX_SHOWN = 200


class Api:
    """Answers requests: http.py's Handler."""

    def __init__(
        self, loop: Loop, pool: "Pool", settings: "Settings", log: "Log", metrics: "Metrics"
    ) -> None:
        self.loop = loop
        self.pool = pool
        self.settings = settings
        self.log = log
        self.metrics = metrics
        self.draining = False
        """Nothing new is run."""
        self.in_flight = 0
        """Requests to run something that have come in full, and whose answer has not gone out in full."""
        metrics.watch(self, pool, log)

    # Before a request's body is read

    def refuse(self, request: Request) -> Response | None:
        """The answer to a request whose body need not be known."""
        response = self._refuse(request)
        if response is not None:
            self._note(request, response.status, {}, 0.0, len(response.body))
        return response

    def _refuse(self, request: Request) -> Response | None:
        path, method = request.path, request.method
        if path.startswith(PRIVATE) and not self._is_known(request):
            return Response(401, closes=True)
        known = ROUTES.get(path)
        if known is None and not (path == "*" and method == "OPTIONS"):
            return Response(404, failure(BAD_REQUEST, f"there is nothing at {path[:MAX_SHOWN]}"))
        if method != known and (method != "HEAD" or known != "GET"):
            allowed = {"GET": "GET, HEAD, OPTIONS", "POST": "POST, OPTIONS"}
            allow = (("Allow", allowed.get(known or "", "GET, HEAD, POST, OPTIONS")),)
            if method == "OPTIONS":
                return Response(204, headers=allow)
            return Response(405, failure(BAD_REQUEST, f"{method[:MAX_SHOWN]} is not for {path}"), allow)
        if path == HEALTH:
            reason = STOPPING if self.draining else self.pool.reason
            return Response(503 if reason else 200, to_json(reason or "ok"), closes=self.draining)
        if path == METRICS:
            return Response(200, self.metrics.render(), content_type=CONTENT_TYPE)
        if path == DOCUMENT:
            return Response(200, read_file(OPENAPI))
        return self._turn_away() if path == RUN else None

    def _is_known(self, request: Request) -> bool:
        key = request.headers.get("x-api-key", "")
        if not key.isascii():
            key = key.encode("latin-1").decode("utf-8", "surrogateescape")
        return self.settings.knows(key)

    def _turn_away(self) -> Response | None:
        """The answer to one run too many."""
        if self.draining:
            return Response(503, failure(UNAVAILABLE, STOPPING), closes=True)
        if self.in_flight >= self.settings.max_requests:
            most = self.settings.max_requests
            message = f"too many requests: {most} are in flight, as many as max_requests allows"
            self.metrics.count("sandbox_runs_total", result="refused")
            return Response(503, failure(UNAVAILABLE, message), (("Retry-After", "1"),))
        return None

    def malformed(self, status: int) -> None:
        """Bytes came that are no request."""
        self.metrics.count("sandbox_requests_total", path="other", status=str(status))
        self.log.debug("malformed request", status=status)

    # Whole requests

    async def handle(self, request: Request, connection: "Connection") -> None:
        """Answers `request`."""
        began = self.loop.now()
        facts: dict[str, Any] = {}
        status = 500
        try:
            if request.path == RUN:
                status = await self._serve_run(request, connection, facts)
            else:
                response = self._answer(request)
                status = response.status
                await connection.respond(response)
        finally:
            self._note(request, status, facts, self.loop.now() - began, connection.bytes_out)

    def _answer(self, request: Request) -> Response:
        if request.path == INFO:
            return Response(200, success(self._info()))
        try:
            kind = request.headers.get("content-type", "")
            if request.method != "POST" and not request.body:
                kind = ""
            check_language(read_fields(kind, request.query, request.body))
        except Mistake as mistake:
            return Response(mistake.status, failure(BAD_REQUEST, str(mistake)))
        if request.path == UPDATE:
            return Response(200, success({}))  # what an image has was decided when it was built
        return Response(200, success({"dependencies": self.settings.image["dependencies"]}))

    def _info(self) -> "dict[str, Any]":
        image, settings = self.settings.image, self.settings
        return {
            "image": image["image"],
            "policy_sha256": image["policy_sha256"],
            "python": image["python"],
            "network_allow": image["network_allow"],
            "max_requests": settings.max_requests,
            "max_body_bytes": settings.max_body_bytes,
            "preload": settings.preload,
            "fresh": settings.fresh,
            "env_allow": settings.env_allow,
            **self.pool.facts(),
        }

    # Runs

    async def _serve_run(self, request: Request, connection: "Connection", facts: "dict[str, Any]") -> int:
        """Answers a request to run something; the answer's status."""
        refusal = self._turn_away()
        if refusal is not None:
            await connection.respond(refusal)
            return refusal.status
        self.in_flight += 1
        try:
            response = await self._respond(request, connection, facts)
            if response is None:
                return 200  # by events
            response.closes = self.draining
            await connection.respond(response)
            return response.status
        finally:
            self.in_flight -= 1

    async def _respond(
        self, request: Request, connection: "Connection", facts: "dict[str, Any]"
    ) -> Response | None:
        headers = request.headers
        try:
            job = read_job(
                read_fields(headers.get("content-type", ""), request.query, request.body), self.settings
            )
        except Mistake as mistake:
            return Response(mistake.status, failure(BAD_REQUEST, str(mistake)))
        request.body = b""  # the job has what is needed of it
        gone = Event(self.loop)

        async def watch() -> None:
            await connection.hung_up()
            gone.set()

        watching = self.loop.spawn(watch())
        try:
            if wants_stream(headers.get("accept", "")):
                return await self._stream(job, connection, gone, facts)
            return await self._run(job, None, gone, facts)
        finally:
            watching.cancel()

    async def _stream(
        self, job: "Job", connection: "Connection", gone: Event, facts: "dict[str, Any]"
    ) -> Response | None:
        """Answers with events; with a whole answer where nothing was run before there was one."""
        stream = EventStream(self.loop, connection, gone)
        pumping = self.loop.spawn(stream.pump())
        try:
            response = await self._run(job, stream.on_output, gone, facts)
            if response.status != 200 and not stream.begun:
                return response
            stream.finish(response.body)
            await pumping.join()
            return None
        finally:
            pumping.cancel()

    async def _run(self, job: "Job", on_output: "Any", gone: Event, facts: "dict[str, Any]") -> Response:
        try:
            outcome = await self.pool.run(job, on_output, gone)
        except PoolDown as down:
            self.metrics.count("sandbox_runs_total", result="refused")
            return Response(500, failure(INTERNAL, f"nothing can be run: {down}"))
        except NoUid as no_uid:
            self.metrics.count("sandbox_runs_total", result="refused")
            return Response(429, failure(TOO_MANY_RUNS, str(no_uid)), (("Retry-After", "1"),))
        if outcome.ended_by == "pool":
            self.metrics.count("sandbox_runs_total", result="error")
            return Response(500, failure(INTERNAL, outcome.error))
        self._count(outcome)
        facts.update(run_facts(outcome))
        return Response(200, success(run_data(outcome)))

    # What is kept of it

    def _count(self, outcome: "Outcome") -> None:
        metrics, ended_by = self.metrics, outcome.ended_by
        if ended_by in LIMITS:
            result = "limit"
            metrics.count("sandbox_limits_hit_total", limit=ended_by)
        elif ended_by in ("timeout", "cancelled"):
            result = ended_by
        else:
            result = "ok" if outcome.exit_code == 0 and not ended_by else "error"
        metrics.count("sandbox_runs_total", result=result)
        if outcome.stdout_truncated or outcome.stderr_truncated:
            metrics.count("sandbox_limits_hit_total", limit="output")
        for one in outcome.denied:
            metrics.count("sandbox_denied_calls_total", one["count"], call=one["call"])
        metrics.observe("sandbox_run_seconds", outcome.wait_s, phase="wait")
        metrics.observe("sandbox_run_seconds", outcome.duration_s, phase="run")
        metrics.observe("sandbox_run_seconds", outcome.wait_s + outcome.duration_s, phase="total")

    def _note(
        self, request: Request, status: int, facts: "dict[str, Any]", duration_s: float, bytes_out: int
    ) -> None:
        """A line in the log, and one in the counts."""
        path, headers = request.path, request.headers
        known = path if path in ROUTES else "other"
        self.metrics.count("sandbox_requests_total", path=known, status=str(status))
        if path in PROBED and not self.log.says_debug:
            return
        line: dict[str, Any] = {
            "method": request.method[:MAX_SHOWN],
            "path": path[:MAX_SHOWN],
            "status": status,
        }
        line["duration_ms"] = round(duration_s * 1000, 1)
        line["bytes_in"] = max(0, request.length)
        line["bytes_out"] = bytes_out
        line.update(facts)
        line.update(sender(headers.get))
        self.log.info("request", **line)
