"""AWS's library, made once for each service and region with limits that fit a person who waits, and its errors in our words.

Credentials, profile and endpoint come from where AWS's own tools take them: the environment and `~/.aws`. Nothing secret is kept here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    ProfileNotFound,
    TokenRetrievalError,
)

from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import WakeFailure

_SIGN_IN = "Sign in to AWS: `aws sso login` or `aws configure`, and AWS_PROFILE if you have several."
_RIGHTS = "docs/guides/aws-account.md lists what the user must be allowed to do."
_EXPIRED = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "AuthFailure",
    "RequestExpired",
}
_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "Client.UnauthorizedOperation"}
_QUOTA = {"VcpuLimitExceeded", "MaxSpotInstanceCountExceeded", "InstanceLimitExceeded", "SpotMaxPriceTooLow", "LimitExceeded"}
_CAPACITY = {"InsufficientInstanceCapacity", "UnfulfillableCapacity", "InsufficientHostCapacity"}


@cache
def client(service: str, region: str) -> Any:
    """The client of one service in one region; thread-safe, as botocore's are. Raises ProviderError."""
    limits = Config(
        connect_timeout=5, read_timeout=20, retries={"mode": "standard", "max_attempts": 4}, user_agent_extra="lamplighter"
    )
    with translated(service):
        return boto3.session.Session().client(service, region_name=region, config=limits)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """AWS's errors as ProviderError with a next step. `what`: what was being done, for the sentence."""
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "?"))
        said = str(error.response.get("Error", {}).get("Message", error))
        raise ProviderError(f"AWS refused ({what}): {code}: {said}", reason=_reason(code), next_step=_step(code)) from error
    except (NoCredentialsError, ProfileNotFound, TokenRetrievalError) as error:
        raise ProviderError(f"there are no AWS credentials: {error}", next_step=_SIGN_IN) from error
    except NoRegionError as error:
        raise ProviderError("no AWS region is named", next_step="Give the pool its `region`.") from error
    except BotoCoreError as error:
        raise ProviderError(
            f"AWS cannot be asked ({what}): {error}", next_step="Check the network; it is tried again."
        ) from error


def code_of(error: ProviderError) -> str:
    """AWS's own code behind an error of `translated`; empty when there is none."""
    cause = error.__cause__
    return str(cause.response.get("Error", {}).get("Code", "")) if isinstance(cause, ClientError) else ""


def _reason(code: str) -> WakeFailure:
    if code in _QUOTA:
        return WakeFailure.QUOTA
    return WakeFailure.NO_CAPACITY if code in _CAPACITY else WakeFailure.PROVIDER_ERROR


def _step(code: str) -> str:
    if code in _EXPIRED:
        return _SIGN_IN
    if code in _DENIED:
        return _RIGHTS
    if code in _QUOTA:
        return "Ask AWS for a higher quota (Service Quotas, EC2, G and VT instances); docs/guides/aws-account.md shows where."
    return (
        "Wait, or allow other types, zones or on-demand machines."
        if code in _CAPACITY
        else "`lamplighter cloud status` shows what there is."
    )
