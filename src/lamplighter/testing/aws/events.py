"""What AWS itself says on EventBridge's default bus; rules and their queues are moto's."""

import contextlib
import json
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from moto.events.models import Rule, events_backends
from moto.sqs.exceptions import QueueDoesNotExist
from moto.sqs.models import sqs_backends

from lamplighter.testing.aws.guard import ACCOUNT
from lamplighter.testing.aws.replacing import replace

if TYPE_CHECKING:
    from lamplighter.testing.aws.world import Record

INTERRUPTION = "EC2 Spot Instance Interruption Warning"
REBALANCE = "EC2 Instance Rebalance Recommendation"
STATE = "EC2 Instance State-change Notification"
LAUNCH_FAILED = "EC2 Instance Launch Unsuccessful"


def send(region: str, source: str, kind: str, resources: list[str], detail: dict[str, Any]) -> None:
    """One event to every rule that matches it. A target that is gone loses it, as in AWS."""
    from lamplighter.testing.aws.callers import act_as, acting
    from lamplighter.testing.aws.world import current

    message = {
        "version": "0", "id": str(uuid.uuid4()), "detail-type": kind, "source": source, "account": ACCOUNT,
        "time": datetime.fromtimestamp(current().now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "region": region,
        "resources": resources, "detail": detail,
    }  # fmt: skip
    backend = events_backends[ACCOUNT][region]
    # Whoever's request led to the event, AWS sends it.
    caller = acting()
    act_as(None)
    try:
        for rule in list(backend.describe_event_bus("default").rules.values()):
            _deliver(rule, message)
    finally:
        act_as(caller)


def _deliver(self: Any, message: dict[str, Any], *_: Any) -> None:
    """To a rule's queues, if it matches; moto's own needs a package for transformations that nobody here uses."""
    if self.state != "ENABLED" or not self.event_pattern.matches_event(message):
        return
    for target in self.targets:
        service, region, _account, name = target["Arn"].split(":")[2:6]
        if service == "sqs":
            with contextlib.suppress(QueueDoesNotExist):
                sqs_backends[ACCOUNT][region].send_message(name, json.dumps(message))


def _arn(record: "Record") -> list[str]:
    return [f"arn:aws:ec2:{record.region}:{ACCOUNT}:instance/{record.instance.id}"]


def state_changed(record: "Record", state: str) -> None:
    """An instance has another state."""
    send(record.region, "aws.ec2", STATE, _arn(record), {"instance-id": record.instance.id, "state": state})


def interrupted(record: "Record") -> None:
    """A spot instance will be taken in two minutes."""
    detail = {"instance-id": record.instance.id, "instance-action": "terminate"}
    send(record.region, "aws.ec2", INTERRUPTION, _arn(record), detail)


def rebalance(record: "Record") -> None:
    """A spot instance is at a higher risk to be taken."""
    send(record.region, "aws.ec2", REBALANCE, _arn(record), {"instance-id": record.instance.id})


def launch_failed(region: str, group: Any, activity: dict[str, Any]) -> None:
    """Auto Scaling could not launch."""
    detail = {
        "StatusCode": "Failed", "AutoScalingGroupName": group.name, "ActivityId": activity["ActivityId"], "Details": {},
        "RequestId": activity["ActivityId"], "StatusMessage": activity["StatusMessage"], "EC2InstanceId": "",
        "Description": activity["Description"], "Cause": activity["Cause"],
    }  # fmt: skip
    send(region, "aws.autoscaling", LAUNCH_FAILED, [group.arn], detail)


def install() -> None:
    """Put these in the place of moto's."""
    replace(Rule, send_to_targets=_deliver)
