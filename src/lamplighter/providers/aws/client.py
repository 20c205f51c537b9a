"""Calls to AWS: one session and one client for each service, limits on every call, and AWS's errors in our words.

Credentials come from where AWS's own tools take them (environment, profile, instance role); nothing here reads or keeps one.
Not responsible for what is called, nor for repeating what failed beyond what AWS's library does by itself.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from lamplighter import __version__
from lamplighter.core.clock import Clock
from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import WakeFailure

T = TypeVar("T")

CONNECT_TIMEOUT = 3.0
READ_TIMEOUT = 8.0
ATTEMPTS = 3
"""Tries of one call, the first included; AWS's library waits between them, longer each time and by chance."""
PARALLEL = 12
"""Calls under way at the same time."""
LONG_POLL = 10
"""Seconds for which a receive from a queue waits for messages."""

_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_UNKNOWN_KEYS = {
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "AuthFailure",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
}
_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "Client.UnauthorizedOperation"}
_THROTTLED = {
    "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException", "SlowDown", "RequestThrottled",
    "EC2ThrottledException", "PriorRequestNotComplete",
}  # fmt: skip
_QUOTA = {
    "MaxSpotInstanceCountExceeded", "VcpuLimitExceeded", "InstanceLimitExceeded", "LimitExceeded", "LimitExceededException",
}  # fmt: skip
_NOT_THERE = {
    "ParameterNotFound", "QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", "NoSuchBucket", "ResourceNotFoundException",
}  # fmt: skip
_SAID = 300
"""Characters of AWS's own words that are passed on."""
APPLY = "Run `lamplighter cloud apply`."


class AwsError(ProviderError):
    """A call failed. `aws_code`: AWS's own name of the error, empty where no answer came. `operation`: IAM's name of the action."""

    def __init__(
        self,
        message: str,
        *,
        aws_code: str = "",
        operation: str = "",
        reason: WakeFailure = WakeFailure.PROVIDER_ERROR,
        next_step: str = "",
    ) -> None:
        super().__init__(message, reason=reason, next_step=next_step)
        self.aws_code = aws_code
        self.operation = operation


class Aws:
    """AWS in one region. Every method may be called from the event loop only; the work is done in threads that end with the process.

    Such a thread is not waited for when its caller is cancelled: no call here must be one whose result may be lost.
    """

    def __init__(self, region: str, clock: Clock) -> None:
        self.region = region
        self._clock = clock
        self._session: Any = None
        self._clients: dict[tuple[str, str], Any] = {}
        self._making = threading.Lock()
        self._places = asyncio.Semaphore(PARALLEL)

    async def call(self, service: str, operation: str, *, region: str | None = None, **arguments: Any) -> dict[str, Any]:
        """The answer of one API operation, named as AWS's library names it (`describe_instances`). Raises AwsError."""
        async with self._places:
            with self._clock.busy():
                return await in_thread(lambda: self._ask(service, operation, region or self.region, arguments))

    async def receive(self, **arguments: Any) -> dict[str, Any]:
        """Wait for messages of a queue, for at most `LONG_POLL` seconds; does not count as a call under way. Raises AwsError.

        What arrives after the caller was cancelled is given back at once, for whoever reads then.
        """
        abandoned = threading.Event()

        def wait() -> dict[str, Any]:
            answer = self._ask("sqs", "receive_message", self.region, arguments)
            if abandoned.is_set():
                self._give_back(arguments["QueueUrl"], answer.get("Messages") or ())
            return answer

        try:
            return await in_thread(wait)
        except asyncio.CancelledError:
            abandoned.set()
            raise

    def give_back(self, queue: str, messages: Sequence[Mapping[str, Any]]) -> None:
        """Let messages that were received and not handled come again at once, for whoever reads then; waits for nothing."""
        threading.Thread(target=self._give_back, args=(queue, messages), name="aws", daemon=True).start()

    def _give_back(self, queue: str, messages: Sequence[Mapping[str, Any]]) -> None:
        for message in messages:
            back = {"QueueUrl": queue, "ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": 0}
            try:
                self._ask("sqs", "change_message_visibility", self.region, back)
            except ProviderError:
                return  # they come again by themselves, a little later

    async def pages(self, service: str, operation: str, key: str, **arguments: Any) -> list[Any]:
        """All items under `key` of an operation that answers in pages. Raises AwsError."""
        found: list[Any] = []
        while True:
            answer = await self.call(service, operation, **arguments)
            found += answer.get(key) or []
            token = answer.get("NextToken")
            if not token:
                return found
            arguments["NextToken"] = token

    def client(self, service: str, region: str | None = None) -> Any:
        """AWS's own client of a service; made once, in a thread. Raises ProviderError."""
        region = region or self.region
        with self._making:
            if (service, region) not in self._clients:
                import boto3
                from botocore.config import Config

                if self._session is None:
                    self._session = boto3.session.Session()
                self._clients[service, region] = self._session.client(
                    service,
                    region_name=region,
                    config=Config(
                        connect_timeout=CONNECT_TIMEOUT,
                        read_timeout=READ_TIMEOUT if service != "sqs" else READ_TIMEOUT + LONG_POLL,
                        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                        max_pool_connections=PARALLEL,
                        user_agent_extra=f"lamplighter/{__version__}",
                    ),
                )
            return self._clients[service, region]

    def _ask(self, service: str, operation: str, region: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer: dict[str, Any] = getattr(self.client(service, region), operation)(**arguments)
        except (ClientError, BotoCoreError) as error:
            raise translate(error, service, operation, region) from error
        return answer


def action(service: str, operation: str) -> str:
    """IAM's name of an operation: `autoscaling:SetDesiredCapacity`."""
    prefix = {"service-quotas": "servicequotas"}.get(service, service)
    return f"{prefix}:{''.join(part.capitalize() for part in operation.split('_'))}"


def translate(error: Exception, service: str, operation: str, region: str) -> AwsError:
    """An error of AWS's library as ours: what happened, why in the keeper's words, and what a person can do."""
    from botocore import exceptions as boto

    name = action(service, operation)
    if isinstance(
        error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.ProfileNotFound | boto.CredentialRetrievalError
    ):
        return AwsError(
            f"There are no usable AWS credentials: {_sentence(error)}",
            operation=name,
            next_step="Run `aws configure`, or set AWS_PROFILE, where Lamplighter runs.",
        )
    if isinstance(error, boto.UnauthorizedSSOTokenError | boto.SSOTokenLoadError | boto.TokenRetrievalError):
        return AwsError("The AWS sign-in has run out.", operation=name, next_step="Run `aws sso login` where Lamplighter runs.")
    if isinstance(error, boto.ClientError):
        return _refused(error, name, region)
    if isinstance(error, boto.HTTPClientError | boto.ConnectionError):
        return AwsError(
            f"AWS cannot be reached ({name} in {region}): {_sentence(error)}",
            operation=name,
            reason=WakeFailure.UNREACHABLE,
            next_step="Check this machine's connection to the internet, and that the region exists.",
        )
    return AwsError(
        f"The call {name} could not be made: {_sentence(error)}", operation=name, next_step="Run `lamplighter doctor`."
    )


def _refused(error: Any, name: str, region: str) -> AwsError:
    """AWS answered, and said no."""
    about = error.response.get("Error", {})
    code, message = str(about.get("Code", "")), " ".join(str(about.get("Message", "")).split())[:_SAID]
    said = f"{code}: {message}" if message else code
    reason, next_step = WakeFailure.PROVIDER_ERROR, "See the detail, and run `lamplighter doctor`."
    text = f"AWS refused {name} in {region}: {said}"
    if code in _EXPIRED:
        text, next_step = (
            "The AWS credentials have expired.",
            "Sign in to AWS again where Lamplighter runs, for example with `aws sso login`.",
        )
    elif code in _UNKNOWN_KEYS:
        text = f"AWS does not accept the credentials ({code})."
        next_step = "Check AWS_PROFILE or the access key where Lamplighter runs, and that this machine's clock is right."
    elif code in _DENIED:
        text = f"The AWS credentials may not do {name} in {region}."
        next_step = f"Allow {name}: the policy that the keeper needs is an output of the stack (`keeper_policy_json`)."
    elif code in _THROTTLED:
        text, next_step = f"AWS limits how often {name} may be called; it is tried again.", "Wait."
    elif code in _QUOTA:
        reason, next_step = WakeFailure.QUOTA, f"Ask for a higher quota of EC2 in {region} (Service Quotas)."
    elif code in _NOT_THERE or "AutoScalingGroup name not found" in message:
        text = f"A part of the stack is not there in {region} ({said})."
        next_step = APPLY
    return AwsError(text, aws_code=code, operation=name, reason=reason, next_step=next_step)


def _sentence(error: Exception) -> str:
    return str(error).strip().rstrip(".") + "."


async def in_thread(work: Callable[[], T]) -> T:
    """`work()` in a thread of its own that does not keep the process alive: a wait of seconds on a socket must not delay its end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type] # None only where T admits it

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - handed to the caller, whole
            failure = error
        try:
            loop.call_soon_threadsafe(finish, result, failure)
        except RuntimeError:
            return  # the loop ended meanwhile: nobody waits for it any more

    threading.Thread(target=run, name="aws", daemon=True).start()
    return await future
