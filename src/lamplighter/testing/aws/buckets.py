"""Buckets where moto differs from S3: it takes a Deny under a condition for a Deny of everything. Who asks without TLS is refused by AWS; here,
where everything is loopback without TLS, requests count as if they had it.
"""

import json
from typing import Any

from moto.iam.access_control import IAMPolicy, PermissionResult
from moto.s3.models import FakeBucket

from lamplighter.testing.aws.replacing import replace


def _permission(self: Any, action: str, resource: str) -> Any:
    if self.policy is None:
        return PermissionResult.NEUTRAL
    document = json.loads(self.policy)
    about_tls = {"Bool": {"aws:SecureTransport": "false"}}
    rest = [one for one in document["Statement"] if one.get("Condition") != about_tls]
    if not rest:
        return PermissionResult.NEUTRAL
    return IAMPolicy(json.dumps({**document, "Statement": rest})).is_action_permitted(action, resource)


def install() -> None:
    """Put these in the place of moto's."""
    replace(FakeBucket, get_permission=_permission)
