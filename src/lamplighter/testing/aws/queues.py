"""Queues where moto differs from SQS: a redrive policy is given back as it was written, without added spaces, which Terraform takes for a change."""

import json
from typing import Any

from moto.sqs.models import Queue

from lamplighter.testing.aws.replacing import replace

_attributes: Any = Queue.attributes


def _compact(self: Any) -> dict[str, Any]:
    found: dict[str, Any] = _attributes.fget(self)
    if found.get("RedrivePolicy"):
        found["RedrivePolicy"] = json.dumps(json.loads(found["RedrivePolicy"]), separators=(",", ":"))
    return found


def _url(self: Any, *_: Any) -> str:
    """As AWS has it, whatever address the emulator is asked at: nodes in a network of their own know no other."""
    return f"https://sqs.{self.region}.amazonaws.com/{self.account_id}/{self.name}"


def install() -> None:
    """Put these in the place of moto's."""
    replace(Queue, attributes=property(_compact), url=_url)
