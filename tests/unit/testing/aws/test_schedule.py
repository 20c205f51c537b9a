"""Scheduled actions of the emulator: the dead-man inside AWS is tested against these."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from lamplighter.testing.aws import Emulator
from lamplighter.testing.aws.cron import Cron

GROUP, OTHER = "lamplighter-spot-spot", "lamplighter-spot-on-demand"


def put(aws: Emulator, *, group: str = GROUP, after: float | None = None, **options: Any) -> None:
    if after is not None:
        options["StartTime"] = datetime.fromtimestamp(aws.now() + after, UTC)
    wanted = {"ScheduledActionName": "dead-man", "MinSize": 0, "DesiredCapacity": 0, **options}
    aws.client("autoscaling").put_scheduled_update_group_action(AutoScalingGroupName=group, **wanted)


def actions(aws: Emulator, group: str = GROUP) -> list[dict[str, Any]]:
    return list(aws.client("autoscaling").describe_scheduled_actions(AutoScalingGroupName=group)["ScheduledUpdateGroupActions"])


def desired(aws: Emulator) -> int:
    groups = aws.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[GROUP])["AutoScalingGroups"]
    return int(groups[0]["DesiredCapacity"])


def wake(aws: Emulator) -> None:
    aws.client("autoscaling").set_desired_capacity(AutoScalingGroupName=GROUP, DesiredCapacity=1)


@pytest.fixture
def stack(aws: Emulator) -> None:
    aws.seed_stack()


@pytest.mark.usefixtures("stack")
class TestDeadMan:
    def test_from_its_start_on_it_recurs(self, aws: Emulator) -> None:
        """A keeper that died would leave a machine running: nothing else in AWS ends it."""
        put(aws, after=700, Recurrence="*/5 * * * *")
        wake(aws)
        aws.advance(690)
        assert (desired(aws), len(aws.instances(live=True))) == (1, 1)  # recurrences before its start do not count
        aws.advance(20)
        assert desired(aws) == 0
        aws.advance(1)
        assert aws.instances(live=True) == []
        wake(aws)  # whoever wakes after that without pushing it is put out again
        aws.advance(301)
        assert desired(aws) == 0

    def test_pushing_it_forward_keeps_the_machine(self, aws: Emulator) -> None:
        """Renewals that did not count would end a machine in the middle of its work."""
        put(aws, after=100, Recurrence="*/5 * * * *")
        wake(aws)
        for _ in range(10):
            aws.advance(60)
            put(aws, after=100, Recurrence="*/5 * * * *")
        assert desired(aws) == 1
        aws.advance(101)
        assert desired(aws) == 0

    def test_its_name_is_its_groups(self, aws: Emulator) -> None:
        """Both groups have one of the same name; pushing one must leave the other."""
        put(aws, after=1000, Recurrence="*/5 * * * *")
        assert len(actions(aws)) == len(actions(aws, OTHER)) == 1
        assert actions(aws)[0]["StartTime"] - actions(aws, OTHER)[0]["StartTime"] > timedelta(seconds=600)

    def test_it_is_shown_with_its_next_run(self, aws: Emulator) -> None:
        """`cloud status` shows when AWS would act."""
        (action,) = actions(aws)
        assert action["Recurrence"] == "*/5 * * * *"
        assert 0 < action["StartTime"].timestamp() - aws.now() <= 300
        aws.advance(300)
        assert 0 < actions(aws)[0]["StartTime"].timestamp() - aws.now() <= 300

    def test_once_is_once(self, aws: Emulator) -> None:
        """One without recurrence is gone after it ran."""
        put(aws, after=10, ScheduledActionName="once")
        wake(aws)
        aws.advance(11)
        assert desired(aws) == 0
        assert [action["ScheduledActionName"] for action in actions(aws)] == ["dead-man"]

    def test_its_end_ends_it(self, aws: Emulator) -> None:
        """EndTime bounds a recurrence."""
        put(
            aws,
            after=10,
            ScheduledActionName="short",
            Recurrence="* * * * *",
            EndTime=datetime.fromtimestamp(aws.now() + 60, UTC),
        )
        aws.advance(200)
        assert [action["ScheduledActionName"] for action in actions(aws)] == ["dead-man"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"after": -60}, "Given start time is in the past"),
            ({"Recurrence": "every day"}, "is invalid"),
            ({}, "StartTime and Recurrence"),
        ],
    )
    def test_nonsense_is_refused(self, aws: Emulator, options: dict[str, Any], message: str) -> None:
        """A wrong call would go unnoticed until it meets AWS, where it means that there is no dead-man."""
        with pytest.raises(ClientError, match=message):
            put(aws, **options)

    def test_it_can_be_deleted(self, aws: Emulator) -> None:
        """`cloud destroy` removes it; twice is an error as in AWS."""
        scaling = aws.client("autoscaling")
        scaling.delete_scheduled_action(AutoScalingGroupName=GROUP, ScheduledActionName="dead-man")
        assert actions(aws) == []
        with pytest.raises(ClientError, match="not found"):
            scaling.delete_scheduled_action(AutoScalingGroupName=GROUP, ScheduledActionName="dead-man")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*/5 * * * *", "2026-11-28 10:05"),
        ("0 0 * * *", "2026-11-29 00:00"),
        ("30 6 1 jan *", "2027-01-01 06:30"),
        ("0 8-10/2 * * mon-fri", "2026-11-30 08:00"),
        ("0 12 13 * fri", "2026-12-04 12:00"),  # day of month or of week
        ("15,45 10 * * 7", "2026-11-29 10:15"),
        ("0 0 31 2 *", None),
    ],
)
def test_cron(text: str, expected: str | None) -> None:
    """A dead-man that reads its recurrence wrongly acts at the wrong time."""
    found = Cron.parse(text).after(datetime(2026, 11, 28, 10, 2, tzinfo=UTC))
    assert (found and found.strftime("%Y-%m-%d %H:%M")) == expected
