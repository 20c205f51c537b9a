"""Scheduled actions that are carried out, as AWS documents them: at StartTime, then by Recurrence; only between StartTime and EndTime; one-time ones end.

A name is unique within its group, and putting the same name again replaces the action: that is how the keeper pushes its dead-man forward.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from moto.autoscaling.exceptions import ValidationError
from moto.autoscaling.models import AutoScalingBackend

from lamplighter.testing.aws import groups
from lamplighter.testing.aws.cron import Cron
from lamplighter.testing.aws.replacing import replace
from lamplighter.testing.aws.world import current


@dataclass
class Action:
    """One scheduled action. `due`: when it runs next."""

    group: str
    name: str
    minimum: int | None
    maximum: int | None
    desired: int | None
    due: datetime
    end: datetime | None
    recurrence: str | None
    zone: str | None
    runs: int = 0

    def describe(self, backend: Any) -> dict[str, Any]:
        """As DescribeScheduledActions shows it."""
        shown = {
            "AutoScalingGroupName": self.group, "ScheduledActionName": self.name, "StartTime": self.due, "Time": self.due,
            "EndTime": self.end, "Recurrence": self.recurrence, "MinSize": self.minimum, "MaxSize": self.maximum,
            "DesiredCapacity": self.desired, "TimeZone": self.zone,
            "ScheduledActionARN": f"arn:aws:autoscaling:{backend.region_name}:{backend.account_id}:scheduledUpdateGroupAction:"
            f"00000000-0000-4000-8000-000000000000:autoScalingGroupName/{self.group}:scheduledActionName/{self.name}",
        }  # fmt: skip
        return {name: value for name, value in shown.items() if value is not None}


def _moment(value: object) -> datetime | None:
    if value is None or value == "":
        return None
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _put(
    self: Any, name: str, desired_capacity: Any, max_size: Any, min_size: Any, scheduled_action_name: str,
    start_time: Any, end_time: Any, recurrence: str | None, timezone: str | None,
) -> Action:  # fmt: skip
    world = current()
    groups.find(self, name)
    now = world.moment()
    start, end = _moment(start_time), _moment(end_time)
    if start is not None and start < now:
        message = "Given start time is in the past"
        raise ValidationError(message)
    if recurrence is None and start is None:
        message = "At least one of StartTime and Recurrence must be specified"
        raise ValidationError(message)
    if all(value is None for value in (desired_capacity, max_size, min_size)):
        message = "At least one of MinSize, MaxSize and DesiredCapacity must be specified"
        raise ValidationError(message)
    due = start or _following(recurrence, now, timezone)
    if due is None or (end is not None and end <= due):
        message = "Given end time is before the action's first run"
        raise ValidationError(message)
    if recurrence is not None:
        _following(recurrence, now, timezone)
    action = Action(
        name, scheduled_action_name, _size(min_size), _size(max_size), _size(desired_capacity), due, end, recurrence, timezone
    )
    world.actions[(self.region_name, name, scheduled_action_name)] = action
    _arm(self, action)
    return action


def _size(value: Any) -> int | None:
    return None if value is None else int(value)


def _following(recurrence: str | None, moment: datetime, zone: str | None) -> datetime | None:
    if recurrence is None:
        return None
    try:
        return Cron.parse(recurrence).after(moment, zone)
    except (ValueError, KeyError) as error:
        message = f"Given recurrence string: {recurrence} is invalid"
        raise ValidationError(message) from error


def _arm(backend: Any, action: Action) -> None:
    current().at(action.due.timestamp(), lambda: _run(backend, action, action.due))


def _run(backend: Any, action: Action, due: datetime) -> None:
    world = current()
    key = (backend.region_name, action.group, action.name)
    if world.actions.get(key) is not action or action.due != due:
        return  # replaced or deleted meanwhile
    action.runs += 1
    following = _following(action.recurrence, due, action.zone)
    if following is None or (action.end is not None and following >= action.end):
        del world.actions[key]
    else:
        action.due = following
        _arm(backend, action)
    group = backend.autoscaling_groups.get(action.group)
    if group is not None and "ScheduledActions" not in [one["ProcessName"] for one in group.suspended_processes]:
        _apply(group, action)


def _apply(group: Any, action: Action) -> None:
    low = group.min_size if action.minimum is None else action.minimum
    high = group.max_size if action.maximum is None else action.maximum
    wanted = min(max(group.desired_capacity, low), high) if action.desired is None else action.desired
    constraints = f"a scheduled action update of AutoScalingGroup constraints to min: {low}, max: {high}, desired: {wanted}"
    if not low <= wanted <= high:
        groups.note(
            group, f"Executing scheduled action {action.name}", "Failed", constraints,
            message="Desired capacity is outside of its bounds.",
        )  # fmt: skip
        return
    group.min_size, group.max_size = low, high
    groups.settle(group, wanted, constraints)


def _describe(self: Any, autoscaling_group_name: str | None = None, scheduled_action_names: list[str] | None = None) -> list[Any]:
    return [
        action.describe(self)
        for (region, group, name), action in current().actions.items()
        if region == self.region_name
        and autoscaling_group_name in (None, "", group)
        and (not scheduled_action_names or name in scheduled_action_names)
    ]


def _delete(self: Any, auto_scaling_group_name: str, scheduled_action_name: str) -> None:
    if current().actions.pop((self.region_name, auto_scaling_group_name, scheduled_action_name), None) is None:
        message = "Scheduled action name not found"
        raise ValidationError(message)


def install() -> None:
    """Put these in the place of moto's."""
    replace(
        AutoScalingBackend,
        put_scheduled_update_group_action=_put,
        describe_scheduled_actions=_describe,
        delete_scheduled_action=_delete,
    )
