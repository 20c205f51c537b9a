"""AWS's errors in our words: each names its cause, what it means for a wake, and what a person can do."""

from typing import Any

import pytest
from botocore import exceptions as boto
from botocore.exceptions import ClientError

from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import WakeFailure
from lamplighter.providers.aws.client import Aws, AwsError, in_thread, translate
from lamplighter.providers.aws.manifest import Manifests, parse
from lamplighter.providers.aws.refusals import refusal
from lamplighter.testing.clock import VirtualClock

REGION = "eu-central-1"


def client_error(code: str, message: str = "") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Anything")


@pytest.mark.parametrize(
    ("error", "reason", "says", "next_step"),
    [
        (boto.NoCredentialsError(), WakeFailure.PROVIDER_ERROR, "no usable AWS credentials", "aws configure"),
        (boto.ProfileNotFound(profile="home"), WakeFailure.PROVIDER_ERROR, "home", "AWS_PROFILE"),
        (boto.UnauthorizedSSOTokenError(), WakeFailure.PROVIDER_ERROR, "sign-in has run out", "aws sso login"),
        (client_error("ExpiredToken"), WakeFailure.PROVIDER_ERROR, "expired", "aws sso login"),
        (client_error("InvalidClientTokenId"), WakeFailure.PROVIDER_ERROR, "does not accept", "AWS_PROFILE"),
        (
            client_error("UnauthorizedOperation", "You are not authorized"),
            WakeFailure.PROVIDER_ERROR,
            "may not do autoscaling:SetDesiredCapacity in eu-central-1",
            "Allow autoscaling:SetDesiredCapacity",
        ),
        (client_error("Throttling", "Rate exceeded"), WakeFailure.PROVIDER_ERROR, "limits how often", "Wait"),
        (client_error("VcpuLimitExceeded", "0"), WakeFailure.QUOTA, "VcpuLimitExceeded", "higher quota"),
        (
            client_error("ValidationError", "AutoScalingGroup name not found - null"),
            WakeFailure.PROVIDER_ERROR,
            "not there",
            "lamplighter cloud apply",
        ),
        (client_error("NoSuchBucket", "It does not exist"), WakeFailure.PROVIDER_ERROR, "not there", "lamplighter cloud apply"),
        (boto.EndpointConnectionError(endpoint_url="https://x"), WakeFailure.UNREACHABLE, "cannot be reached", "internet"),
        (boto.ReadTimeoutError(endpoint_url="https://x"), WakeFailure.UNREACHABLE, "cannot be reached", "internet"),
        (boto.ParamValidationError(report="bad"), WakeFailure.PROVIDER_ERROR, "could not be made", "doctor"),
    ],
)
def test_every_error_says_what_to_do(error: Exception, reason: WakeFailure, says: str, next_step: str) -> None:
    """A person would see a name of AWS's library at three in the morning, and nothing to do about it."""
    told = translate(error, "autoscaling", "set_desired_capacity", REGION)
    assert told.reason is reason
    assert says in told.message
    assert next_step in told.next_step


def test_what_aws_says_is_cut() -> None:
    """A page of HTML from some proxy would fill the log and the wake card."""
    told = translate(client_error("500", "<html>\n" * 1000), "pricing", "get_products", REGION)
    assert len(told.message) < 400
    assert "\n" not in told.message


@pytest.mark.parametrize(
    ("message", "market", "reason", "sentence"),
    [
        (
            "Could not launch Spot Instances. UnfulfillableCapacity - Unable to fulfill capacity due to your request configuration.",
            "spot",
            WakeFailure.NO_CAPACITY,
            "no spot capacity",
        ),
        (
            (
                "We currently do not have sufficient g4dn.xlarge capacity in the Availability Zone you requested (eu-central-1a). "
                "You can currently get g4dn.xlarge capacity by choosing eu-central-1b."
            ),
            "on-demand",
            WakeFailure.NO_CAPACITY,
            "no on-demand capacity in eu-central-1a",
        ),
        (
            "Could not launch Spot Instances. MaxSpotInstanceCountExceeded - Max spot instance count exceeded.",
            "spot",
            WakeFailure.QUOTA,
            "the account's quota of spot machines is used up",
        ),
        (
            "You have requested more vCPU capacity than your current vCPU limit of 0 allows for the instance bucket",
            "on-demand",
            WakeFailure.QUOTA,
            "the account's quota of on-demand machines is used up",
        ),
        ("The image id '[ami-0]' does not exist", "spot", WakeFailure.BAD_IMAGE, "the machine image cannot be used"),
        (
            "Your requested instance type (g6.xlarge) is not supported in your requested Availability Zone (eu-central-1c).",
            "spot",
            WakeFailure.NO_CAPACITY,
            "this type is not offered in the pool's zones in eu-central-1c",
        ),
        ("Something  new.\nLaunching failed.", "spot", WakeFailure.PROVIDER_ERROR, "AWS said: Something new. Launching failed"),
        ("", "spot", WakeFailure.PROVIDER_ERROR, "AWS gave no reason"),
    ],
)
def test_a_failed_launch_in_our_words(message: str, market: str, reason: WakeFailure, sentence: str) -> None:
    """The keeper would try again what can never work, or give up what another market has."""
    told = refusal(message, market)
    assert (told.reason, told.sentence) == (reason, sentence)


async def test_a_missing_stack_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who wrote a pool into the file and forgot to apply it would not know what is missing."""
    aws = Aws(REGION, VirtualClock())

    async def refuse(*_: Any, **__: Any) -> Any:
        raise AwsError("no", aws_code="ParameterNotFound")

    monkeypatch.setattr(aws, "call", refuse)
    with pytest.raises(ProviderError, match="no stack 'lamplighter'") as caught:
        await Manifests(aws, "lamplighter", "ins", VirtualClock()).get()
    assert "lamplighter cloud apply" in caught.value.next_step


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"version": 1, "installation": "ins_other"}', "another installation"),
        ('{"version": 2}', "another version"),
        ('{"version": 1, "installation": "ins"}', "cannot be read"),
        ("[]", "cannot be read"),
        ("no json", "cannot be read"),
    ],
)
def test_a_strange_manifest_is_refused(text: str, says: str) -> None:
    """Two installations in one account would end each other's machines."""
    with pytest.raises(ProviderError, match=says):
        parse(text, stack="lamplighter", installation="ins")


async def test_a_thread_that_hangs_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C would wait for a long poll of AWS's queue."""
    import asyncio
    import threading

    release = threading.Event()
    task = asyncio.create_task(in_thread(release.wait))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()


async def test_an_error_in_the_thread_arrives() -> None:
    """A failed call would look like one that never ends."""

    def fail() -> None:
        raise ValueError("as asked")

    with pytest.raises(ValueError, match="as asked"):
        await in_thread(fail)
