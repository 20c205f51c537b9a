"""Auto Scaling groups as AWS runs them: bounds enforced, launches that take time or fail with an activity that says why, replacement of what ended.

Not responsible for scheduled actions (`schedule`) nor for how a machine is chosen (`choosing`).
"""

import json
import uuid
from typing import Any

from moto.autoscaling.exceptions import AutoscalingClientError, ResourceContentionError, ValidationError
from moto.autoscaling.models import AutoScalingBackend, FakeAutoScalingGroup, InstanceState
from moto.autoscaling.responses import AutoScalingResponse
from moto.core.responses import ActionResult, EmptyResult
from moto.ec2.models import ec2_backends

from lamplighter.testing.aws import events, machines
from lamplighter.testing.aws.choosing import Choice, Refused, choose
from lamplighter.testing.aws.guard import ACCOUNT
from lamplighter.testing.aws.replacing import replace
from lamplighter.testing.aws.world import current

MOST_TAGS = 50
MEMBER = ("Pending", "InService")
_KEPT_ACTIVITIES = 200


class ScalingActivityInProgressError(AutoscalingClientError):
    """The instance is on its way out already."""

    code = "ScalingActivityInProgress"


class ResourceInUseError(AutoscalingClientError):
    """A group that still has instances is not deleted without force."""

    code = "ResourceInUse"


class LimitExceededError(AutoscalingClientError):
    """More tags than a group may have."""

    code = "LimitExceeded"


def find(backend: Any, name: str) -> Any:
    """A group, or AWS's error."""
    if name not in backend.autoscaling_groups:
        message = f"AutoScalingGroup name not found - AutoScalingGroup: {name} not found"
        raise ValidationError(message)
    return backend.autoscaling_groups[name]


def _set_desired(self: Any, group_name: str, desired_capacity: int | None) -> None:
    group = find(self, group_name)
    wanted = int(desired_capacity or 0)
    for beyond, word, limit in ((wanted > group.max_size, "above max", group.max_size), (wanted < group.min_size, "below min", group.min_size)):  # fmt: skip
        if beyond:
            message = f"New SetDesiredCapacity value {wanted} is {word} value {limit} for the AutoScalingGroup."
            raise ValidationError(message)
    settle(group, wanted, "a user request explicitly set group desired capacity")


def settle(group: Any, wanted: int, who: str) -> None:
    """Make `wanted` the desired capacity because of `who`, and begin what follows from it."""
    before = group.desired_capacity or 0
    group.desired_capacity = wanted
    if wanted != before:
        current().history.append((current().now(), group.name, f"desired {wanted}"))
        group.cause = f"{who} changing the desired capacity from {before} to {wanted}"
    reconcile(group)


def _capacity(self: Any, new_capacity: int | None) -> None:
    """In the place of moto's: called when a group is made or updated."""
    if new_capacity is None:
        new_capacity = self.min_size
    if not int(self.min_size or 0) <= int(new_capacity or 0) <= int(self.max_size or 0):
        message = (
            f"Desired capacity:{new_capacity} must be between the specified min size:{self.min_size} and max size:{self.max_size}"
        )
        raise ValidationError(message)
    if not hasattr(self, "attempts"):
        self.attempts, self.desired_capacity, self.cause = [], 0, "a user request created an AutoScalingGroup"
    settle(self, int(new_capacity or 0), "a user request update of AutoScalingGroup constraints")


_update_group = FakeAutoScalingGroup.update


def _update(self: Any, **changes: Any) -> None:
    """Moto forgets the mixed policy of whoever updates something else; and bounds move the desired capacity with them."""
    kept = self.mixed_instances_policy
    low = self.min_size if changes.get("min_size") is None else changes["min_size"]
    high = self.max_size if changes.get("max_size") is None else changes["max_size"]
    if low > high:
        raise ValidationError("Max bound, " + str(high) + ", must be greater than or equal to min bound, " + str(low))
    if changes.get("desired_capacity") is None:
        changes["desired_capacity"] = min(max(self.desired_capacity, low), high)
    _update_group(self, **changes)
    if not any(changes.get(name) for name in ("mixed_instances_policy", "launch_template", "launch_config_name")):
        self.mixed_instances_policy = kept


def members(group: Any) -> list[Any]:
    """Its instances that count: pending or in service, and not ended by themselves."""
    return [state for state in group.instance_states if state.lifecycle_state in MEMBER]


def reconcile(group: Any) -> None:
    """Begin what brings the group to its desired capacity."""
    world = current()
    _sweep(group)
    missing = group.desired_capacity - len(members(group)) - len(group.attempts)
    if missing < 0:
        while missing < 0 and group.attempts:
            group.attempts.pop()
            missing += 1
        for state in _surplus(group, -missing):
            _take_out(
                group,
                state,
                f"At {_stamp()} {group.cause}.  At {_stamp()} instance {state.instance.id} was selected for termination.",
            )
    for _ in range(max(0, missing)):
        attempt = object()
        group.attempts.append(attempt)
        world.after(world.pace.launch, lambda attempt=attempt: _attempt(group, attempt))  # type: ignore[misc]


def _sweep(group: Any) -> None:
    """Forget members that are gone; those who ended by themselves leave with an activity."""
    for state in list(group.instance_states):
        if state.instance.state == "terminated":
            group.instance_states.remove(state)
            if state.lifecycle_state in MEMBER:
                note(
                    group, f"Terminating EC2 instance: {state.instance.id}", "Successful",
                    f"At {_stamp()} an instance was taken out of service in response to an EC2 health check indicating it has been "
                    "terminated or stopped.",
                )  # fmt: skip


def _surplus(group: Any, count: int) -> list[Any]:
    free = [state for state in members(group) if not state.protected_from_scale_in]
    newest = "NewestInstance" in group.termination_policies
    free.sort(key=lambda state: (state.instance.launch_time, list(current().records).index(state.instance.id)), reverse=newest)
    return free[:count]


def _take_out(group: Any, state: Any, cause: str) -> dict[str, Any]:
    state.lifecycle_state = "Terminating"
    activity = note(group, f"Terminating EC2 instance: {state.instance.id}", "InProgress", cause)
    machines.end(current().records[state.instance.id], machines.USER)
    world = current()

    def done() -> None:
        activity.update(StatusCode="Successful", Progress=100, EndTime=world.moment())
        _sweep(group)

    world.after(world.pace.shutdown * 1.01 + 0.001, done)
    return activity


def _attempt(group: Any, attempt: object) -> None:
    """Try to launch one instance of the group."""
    if attempt not in group.attempts:
        return
    group.attempts.remove(attempt)
    if not exists(group):
        return
    world = current()
    running = len(members(group))
    cause = (
        f"At {_stamp()} {group.cause}.  At {_stamp()} an instance was started in response to a difference between desired and actual "
        f"capacity, increasing the capacity from {running} to {running + 1}."
    )
    try:
        if "Launch" in [one["ProcessName"] for one in group.suspended_processes]:
            return
        choice = choose(group, members(group))
    except Refused as refused:
        activity = note(
            group, f"Launching a new EC2 instance.  Status Reason: {refused.sentence}", "Failed", cause,
            message=refused.sentence, zone=refused.zone, subnet=refused.subnet,
        )  # fmt: skip
        events.launch_failed(group.region, group, activity)
        world.after(world.pace.retry, lambda: _again(group))
        return
    _launch(group, choice, cause)


def _again(group: Any) -> None:
    if exists(group):
        reconcile(group)


def exists(group: Any) -> bool:
    """Whether nobody deleted it."""
    return group.autoscaling_backend.autoscaling_groups.get(group.name) is group


def _launch(group: Any, choice: Choice, cause: str) -> None:
    backend = ec2_backends[ACCOUNT][group.region]
    template = group.ec2_launch_template
    version = template.get_version(group.launch_template_version)
    tags = {"aws:autoscaling:groupName": group.name} | version.instance_tags | group.get_propagated_tags()
    record = machines.launch(
        backend, version.data, instance_type=choice.instance_type, market=choice.market, subnet=choice.subnet, zone=choice.zone,
        tags=tags, group=group.name, template={"LaunchTemplateId": template.id, "Version": str(version.number)},
    )  # fmt: skip
    record.instance.autoscaling_group = group
    group.instance_states.append(
        InstanceState(
            record.instance, lifecycle_state="Pending", protected_from_scale_in=group.new_instances_protected_from_scale_in
        )
    )
    activity = note(
        group, f"Launching a new EC2 instance: {record.instance.id}", "InProgress", cause, zone=choice.zone, subnet=choice.subnet
    )
    world = current()

    def done() -> None:
        if record.instance.state == "running":
            activity.update(StatusCode="Successful", Progress=100, EndTime=world.moment())

    world.after(world.pace.pending * 1.01 + 0.001, done)


def ended_by_itself(instance_id: str) -> None:
    """An instance stopped that its group still counts: a health check finds it after a while, and replaces it."""
    world = current()
    record = world.records[instance_id]
    if record.group is None:
        return

    def check() -> None:
        from moto.autoscaling.models import autoscaling_backends

        group = autoscaling_backends[ACCOUNT][record.region].autoscaling_groups.get(str(record.group))
        if group is not None:
            reconcile(group)

    world.after(world.pace.shutdown + world.pace.health, check)


def note(
    group: Any, description: str, status: str, cause: str, *, message: str | None = None, zone: str = "", subnet: str | None = None
) -> dict[str, Any]:  # fmt: skip
    """List one scaling activity."""
    world = current()
    activity: dict[str, Any] = {
        "ActivityId": str(uuid.uuid4()), "AutoScalingGroupName": group.name, "AutoScalingGroupARN": group.arn,
        "Description": description, "Cause": cause, "StartTime": world.moment(), "StatusCode": status,
        "Progress": 100 if status != "InProgress" else 50,
        "Details": json.dumps({"Subnet ID": subnet, "Availability Zone": zone} if subnet else {"Availability Zone": zone}),
    }  # fmt: skip
    if status != "InProgress":
        activity["EndTime"] = world.moment()
    if message is not None:
        activity["StatusMessage"] = message
    kept = world.activities.setdefault((group.region, group.name), [])
    kept.insert(0, activity)
    del kept[_KEPT_ACTIVITIES:]
    return activity


def _stamp() -> str:
    return current().moment().strftime("%Y-%m-%dT%H:%M:%SZ")


def _describe_activities(self: AutoScalingResponse) -> ActionResult:
    world = current()
    name, ids = self._get_param("AutoScalingGroupName"), self._get_param("ActivityIds", [])
    found = [
        activity
        for (region, group), activities in world.activities.items()
        if region == self.region and name in (None, group)
        for activity in activities
        if not ids or activity["ActivityId"] in ids
    ]
    limit = self._get_int_param("MaxRecords", 100) or 100
    start = int(self._get_param("NextToken") or 0)
    following = str(start + limit) if len(found) > start + limit else None
    return ActionResult({"Activities": found[start : start + limit], "NextToken": following})


def _terminate(self: Any, instance_id: str, should_decrement: bool) -> dict[str, Any]:
    """TerminateInstanceInAutoScalingGroup: with a decrement nothing replaces it."""
    for group in self.autoscaling_groups.values():
        for state in group.instance_states:
            if state.instance.id != instance_id:
                continue
            if state.lifecycle_state not in MEMBER:
                message = f"Instance {instance_id} is already being terminated."
                raise ScalingActivityInProgressError(message)
            return _end_member(group, state, should_decrement)
    message = f"Instance Id not found - No managed instance found for instance ID: {instance_id}"
    raise ValidationError(message)


def _end_member(group: Any, state: Any, should_decrement: bool) -> dict[str, Any]:
    before = group.desired_capacity
    cause = f"At {_stamp()} instance {state.instance.id} was taken out of service in response to a user request"
    if should_decrement:
        if before - 1 < group.min_size:
            message = (
                f"Currently, desiredSize equals minSize ({group.min_size}). Terminating instance without replacement will violate group's "
                "min size constraint. Either set shouldDecrementDesiredCapacity flag to false or lower group's min size."
            )
            raise ValidationError(message)
        group.desired_capacity = before - 1
        cause += f", shrinking the capacity from {before} to {before - 1}"
    activity = _take_out(group, state, cause + ".")
    reconcile(group)
    return activity


def _delete(self: AutoScalingResponse) -> EmptyResult:
    backend, name = self.autoscaling_backend, self._get_param("AutoScalingGroupName")
    group = find(backend, name)
    if not self._get_bool_param("ForceDelete", False) and (members(group) or group.attempts):
        message = "You cannot delete an AutoScalingGroup while there are instances or pending Spot instance request(s) still in the group."
        raise ResourceInUseError(message)
    backend.autoscaling_groups.pop(name)
    group.attempts.clear()
    for state in members(group):
        machines.end(current().records[state.instance.id], machines.USER)
    world = current()
    for key in [key for key in world.actions if key[:2] == (self.region, name)]:
        del world.actions[key]
    world.activities.pop((self.region, name), None)
    return EmptyResult()


_create_tags = AutoScalingBackend.create_or_update_tags
_delete_tags = AutoScalingBackend.delete_tags


def _tag(self: Any, tags: list[dict[str, Any]]) -> None:
    for tag in tags:
        group = find(self, tag["ResourceId"])
        keys = {one["Key"] for one in group.tags} | {tag["Key"]}
        if len(keys) > MOST_TAGS:
            message = f"The number of tags exceeds the limit of {MOST_TAGS}."
            raise LimitExceededError(message)
    _create_tags(self, tags)


def _untag(self: Any, tags: list[dict[str, Any]]) -> None:
    for tag in tags:
        find(self, tag["ResourceId"])
    _delete_tags(self, tags)


_create_group = AutoScalingBackend.create_auto_scaling_group


def _create(self: Any, name: str, *arguments: Any, **options: Any) -> Any:
    if name in self.autoscaling_groups:
        error = AutoscalingClientError("AlreadyExists", f"AutoScalingGroup by this name already exists - {name}")
        raise error
    return _create_group(self, name, *arguments, **options)


_put_hook = AutoScalingResponse.put_lifecycle_hook


def _put_lifecycle_hook(self: AutoScalingResponse) -> Any:
    """Moto gives every hook the same queue and role."""
    answer = _put_hook(self)
    hook = self.autoscaling_backend.lifecycle_hooks[
        f"{self._get_param('AutoScalingGroupName')}_{self._get_param('LifecycleHookName')}"
    ]
    hook.notification_target_arn, hook.role_arn = self._get_param("NotificationTargetARN"), self._get_param("RoleARN")
    return answer


def _nothing(self: Any, instance_ids: list[str]) -> None:
    """Moto replaces at once what EC2 terminates; here the health check does."""


__all__ = ["ResourceContentionError", "ended_by_itself", "install", "members", "reconcile", "settle"]


def install() -> None:
    """Put these in the place of moto's."""
    replace(FakeAutoScalingGroup, set_desired_capacity=_capacity, update=_update)
    replace(
        AutoScalingBackend,
        set_desired_capacity=_set_desired,
        create_auto_scaling_group=_create,
        terminate_instance=_terminate,
        create_or_update_tags=_tag,
        delete_tags=_untag,
        notify_terminate_instances=_nothing,
    )
    replace(
        AutoScalingResponse,
        describe_scaling_activities=_describe_activities,
        delete_auto_scaling_group=_delete,
        put_lifecycle_hook=_put_lifecycle_hook,
    )
