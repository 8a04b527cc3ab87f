"""`lambda`: answers AWS Lambda's invocations with the same runs as `serve`, one after the other.

The environment may be frozen whenever it waits for the next one, for hours: what was prepared stays prepared,
and no timer decides about it. What is wrong for good ends the process, after Lambda was told why: then it
starts another one.
"""

import posix
from time import time

from runtime.answer import BAD_REQUEST, INTERNAL, TOO_MANY_RUNS, failure, run_data, run_facts, success
from runtime.body import Mistake, read_fields, read_json
from runtime.ends import PoolDown
from runtime.facts import read_service
from runtime.failure import INTERNAL as INTERNAL_EXIT
from runtime.failure import USAGE, Refused
from runtime.fields import read_job
from runtime.image import read_file
from runtime.lambdaapi import MAX_ANSWER_BYTES, Broken, Invocation, LambdaApi
from runtime.lambdaevent import HttpEvent, Malformed, error_body, http_answer, http_event, time_left_s
from runtime.log import Log, sender, shown_header
from runtime.loop import Cancelled, Event, Loop, Task
from runtime.pool import NoUid
from runtime.run import SENTENCES, TIMED_OUT, Job, Outcome
from runtime.serve import (
    SIGINT,
    SIGTERM,
    Server,
    prepare,
    take_environment,
)
from runtime.settings import DEFAULT_KEY, Settings, read_settings

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from typing import Any

ADDRESS = "AWS_LAMBDA_RUNTIME_API"
MARGIN_S = 0.1
"""Between the end of a run's time and Lambda's deadline: for ending it, and for the answer."""
LATE_S = MARGIN_S / 4
AGAIN_S = 1.0
"""Within this time a zygote that has ended is there again."""

INIT_FAILED, POOL_DOWN, RUN_LOST = "Runtime.InitFailed", "Runtime.PoolDown", "Runtime.RunLost"
OUR_FAULT = "Runtime.Internal"
TOO_LATE, TOO_LARGE = "Function.DeadlineTooClose", "Function.ResponseSizeTooLarge"
NOBODYS = (
    "no API key is configured, and AWS has not checked who sent the request: "
    "set API_KEY, or have IAM or an authorizer check (AuthType: AWS_IAM)"
)


class Failed(Exception):
    """There is no answer to an invocation: `kind` is what Lambda is told, str() is why."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Function(Server):
    """One execution environment of Lambda's, from its start to its end."""

    def __init__(self, settings: Settings, log: Log, environ: dict[bytes, bytes], address: str) -> None:
        super().__init__(settings, log, environ)
        self.api_of_lambda = LambdaApi(self.loop, address)
        self.waiting: Task | None = None
        """For the next invocation."""

    async def start(self) -> None:
        """Goes on when a run in the jail has succeeded; Refused where none can."""
        self._open_network()
        await self.pool.start()
        if self.pool.problem:
            raise Refused(INTERNAL_EXIT, f"nothing can be run: {self.pool.problem}")
        try:
            problem = await self._try_a_run()
        except (PoolDown, NoUid) as error:
            raise Refused(INTERNAL_EXIT, f"nothing can be run: {error}") from None
        if problem:
            raise Refused(INTERNAL_EXIT, f"the self-test failed: {problem}")
        self._tell_in_force("ready")

    async def serve(self) -> None:
        """Answers every invocation until it is told to stop; Refused where there is no going on."""
        self.loop.on_signal(SIGTERM, self._drain)
        self.loop.on_signal(SIGINT, self._drain)
        try:
            while not self.stopping.is_set:
                self.waiting = self.loop.spawn(self.api_of_lambda.next())
                try:
                    invocation: Invocation = await self.waiting.join()
                except Cancelled:
                    break
                self.waiting = None
                await self._answer_one(invocation)
        except Broken as broken:
            raise Refused(INTERNAL_EXIT, str(broken)) from None
        except Failed as failed:
            raise Refused(INTERNAL_EXIT, f"nothing can be run: {failed}") from None
        await self.pool.stop()
        self.log.info("stopped")

    def _drain(self) -> None:
        """Ends after the invocation at hand, or at once where there is none."""
        self.stopping.set()
        if self.waiting is not None:
            self.waiting.cancel()

    # One invocation

    async def _answer_one(self, invocation: Invocation) -> None:
        """One response, or one error; Failed where it should be the last."""
        began = self.loop.now()
        facts: dict[str, Any] = {"xray_trace": shown_header(invocation.trace_id)}
        last: Failed | None = None
        try:
            answer = await self._respond(invocation, facts)
        except Exception as error:
            if not isinstance(error, Failed):
                self._crash(error)
                error = Failed(OUR_FAULT, "a mistake in the sandbox, which its log tells of")
            facts["failed"] = error.kind
            body = error_body(error.kind, str(error))
            not_taken = await self.api_of_lambda.fail(invocation, error.kind, body)
            last = error if error.kind == POOL_DOWN else None
        else:
            not_taken = await self.api_of_lambda.respond(invocation, answer)
            facts["bytes_out"] = len(answer)
        if not_taken:  # it was over already, say: that says nothing of the next one
            self.log.error("answer not taken", request_id=invocation.id, reason=not_taken)
        facts["duration_ms"] = round((self.loop.now() - began) * 1000, 1)
        self.log.info("invocation", request_id=invocation.id, bytes_in=len(invocation.event), **facts)
        if last is not None:
            raise last

    async def _respond(self, invocation: Invocation, facts: "dict[str, Any]") -> bytes:
        """The answer to an event, as JSON; Failed where there is none."""
        left_s = time_left_s(invocation.deadline_ms, time() * 1000, MARGIN_S, self.settings.timeout_s)
        ends = self.loop.now() + left_s
        try:
            event = read_json(invocation.event)
        except Mistake as mistake:
            return failure(BAD_REQUEST, str(mistake))
        request = http_event(event)
        if request is None:
            return _bounded((await self._run(event, ends, facts))[1])
        status, body, headers = await self._respond_http(request, ends, facts)
        facts["status"] = status
        try:
            return _bounded(http_answer(status, body, headers))
        except Failed as too_large:
            return http_answer(500, failure(INTERNAL, str(too_large)))

    async def _respond_http(
        self, request: HttpEvent, ends: float, facts: "dict[str, Any]"
    ) -> "tuple[int, bytes, dict[str, str]]":
        facts.update(sender(lambda name: request.header(name) or None))
        if self.settings.key_digest:
            known = self.settings.knows(request.header("x-api-key"))
        else:
            known = self.settings.insecure or request.vouched_for()
            if not known:
                self.log.warn("refused", reason=NOBODYS)
        if not known:
            return 401, b"", {}
        if request.method != "POST":
            return 405, failure(BAD_REQUEST, "send a POST: its body is what is to be run"), {"allow": "POST"}
        try:
            fields = read_fields(request.header("content-type"), "", request.body())
        except Malformed as malformed:
            return 400, failure(BAD_REQUEST, str(malformed)), {}
        except Mistake as mistake:
            return mistake.status, failure(BAD_REQUEST, str(mistake)), {}
        return *(await self._run(fields, ends, facts)), {}

    async def _run(self, fields: "dict[str, Any]", ends: float, facts: "dict[str, Any]") -> tuple[int, bytes]:
        """HTTP's status, and what is answered to a request to run something."""
        try:
            job = read_job(fields, self.settings)
        except Mistake as mistake:
            return mistake.status, failure(BAD_REQUEST, str(mistake))
        left_s = ends - self.loop.now()
        if left_s <= 0:
            raise Failed(TOO_LATE, "the deadline is too close for a run, by the clock of this environment")
        job.timeout_s = left_s if job.timeout_s is None else min(left_s, job.timeout_s)
        try:
            outcome = await self._outcome(job, ends)
        except NoUid as no_uid:
            return 429, failure(TOO_MANY_RUNS, str(no_uid))
        if outcome.ended_by == "pool":
            raise Failed(RUN_LOST, outcome.error)
        facts.update(run_facts(outcome))
        return 200, success(run_data(outcome))

    async def _outcome(self, job: Job, ends: float) -> Outcome:
        """What came of the job, in time for the deadline whatever happens; Failed where nothing was run."""
        late, cancelled = Event(self.loop), Event(self.loop)
        running = self.loop.spawn(self._run_again(job, cancelled))

        async def watch() -> None:
            await self.loop.sleep(ends + LATE_S - self.loop.now())
            cancelled.set()
            await self.loop.sleep(LATE_S)
            late.set()
            running.cancel()

        watching = self.loop.spawn(watch())
        try:
            outcome: Outcome = await running.join()
        except PoolDown as down:
            raise Failed(POOL_DOWN, str(down)) from None
        except Cancelled:
            if not late.is_set:
                raise
            raise Failed(POOL_DOWN, self.pool.problem or "there was no process in time") from None
        finally:
            watching.cancel()
        if outcome.ended_by == "cancelled":
            # It had waited for its process: its own time-out was still to come.
            outcome.ended_by, outcome.error, outcome.exit_code = "timeout", SENTENCES["timeout"], TIMED_OUT
        return outcome

    async def _run_again(self, job: Job, cancelled: Event) -> Outcome:
        """Runs the job; once more where the pool was down, for then nothing was run."""
        try:
            return await self.pool.run(job, cancelled=cancelled)
        except PoolDown:
            await self.pool.keeper.up.wait(AGAIN_S)
            return await self.pool.run(job, cancelled=cancelled)


def _bounded(answer: bytes) -> bytes:
    """`answer`; Failed where Lambda would not take it."""
    if len(answer) > MAX_ANSWER_BYTES:
        why = f"the answer has {len(answer)} bytes, and Lambda takes {MAX_ANSWER_BYTES}"
        raise Failed(TOO_LARGE, f"{why}: lower limits.output, or ask for fewer outputs")
    return answer


def lambda_settings(image: "dict[str, Any]", environ: dict[bytes, bytes]) -> Settings:
    """The settings, for one run at a time; unlike `serve` without a key, too: IAM may keep strangers out."""
    if image["network"] and not image["network_allow"]:
        raise Refused(
            USAGE,
            "enable_network is on: code could speak to Lambda's runtime API, and answer for others",
            "build the image with network: {allow: [HOST:PORT, ...]}, which never leads there, or without",
        )
    insecure = image["serve"]["insecure"]
    image = {**image, "serve": {**image["serve"], "insecure": True, "spares": 1}}
    settings = read_settings(image, environ, read_file)
    settings.max_workers = 1
    if not insecure and settings.key_digest and settings.knows(DEFAULT_KEY):
        settings.key_digest = ""  # it would keep nobody out
    settings.insecure = insecure
    about_serve = ("(app.insecure)", "(GRACE)")
    settings.warnings = [text for text in settings.warnings if not any(of in text for of in about_serve)]
    return settings


def tell_lambda(address: str, refused: Refused) -> None:
    """Reports a start that failed. That Lambda does not hear it changes nothing: the process ends."""
    message = f"{refused}; {refused.hint}" if refused.hint else str(refused)
    loop = Loop()
    api = LambdaApi(loop, address)
    try:
        not_taken = loop.run(api.fail_init(INIT_FAILED, error_body(INIT_FAILED, message)))
    except Broken as broken:
        not_taken = str(broken)
    if not_taken:
        posix.write(2, f"sandbox: error: init/error: {not_taken}\n".encode("utf-8", "replace"))


def main(arguments: list[str]) -> None:
    """Ends the process with 0 after SIGTERM; Refused, which Lambda was told of, where it cannot go on."""
    if arguments:
        raise Refused(USAGE, f"lambda takes no arguments: {arguments}", "settings come by the environment")
    environ = take_environment()
    address = environ.get(ADDRESS.encode(), b"").decode("utf-8", "replace")
    try:
        LambdaApi(Loop(), address)
    except ValueError:
        raise Refused(
            USAGE,
            f"lambda wants HOST:PORT in {ADDRESS}, which AWS Lambda sets, and got {address[:100]!a}",
            "elsewhere it is `serve`",
        ) from None
    try:
        image = read_service()
        settings = lambda_settings(image, environ)
        function = Function(settings, prepare(settings), environ, address)
        function.loop.run(function.start())
    except Refused as refused:
        tell_lambda(address, refused)
        raise
    function.loop.run(function.serve())
    posix._exit(0)
