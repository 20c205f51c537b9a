"""What moto's Budgets lack: subscribers, updates, tags."""

import json
from typing import Any

from moto.budgets.models import Budget
from moto.budgets.responses import BudgetsResponse

from lamplighter.testing.aws.replacing import replace
from lamplighter.testing.aws.world import current

_KEY = ("NotificationType", "ComparisonOperator", "Threshold", "ThresholdType")
_create_budget = BudgetsResponse.create_budget


def _all(self: Any) -> Any:
    return self.backend.budgets[self._get_param("AccountId")]


def _notification(self: Any, parameter: str = "Notification") -> Any:
    wanted = self._get_param(parameter)
    budget = _all(self)[self._get_param("BudgetName")]
    return next(one for one in budget.notifications if all(one.details.get(key) == wanted[key] for key in _KEY if key in wanted))


def _tags(self: Any) -> list[dict[str, str]]:
    return current().budget_tags.setdefault(self._get_param("ResourceARN"), [])


def _create(self: BudgetsResponse) -> str:
    answer = str(_create_budget(self))
    arn = f"arn:aws:budgets::{self._get_param('AccountId')}:budget/{self._get_param('Budget')['BudgetName']}"
    current().budget_tags[arn] = self._get_param("ResourceTags") or []
    return answer


def _subscribers(self: BudgetsResponse) -> str:
    return json.dumps({"Subscribers": _notification(self).subscribers})


def _update(self: BudgetsResponse) -> str:
    new, budgets = self._get_param("NewBudget"), _all(self)
    updated = Budget(new, [])
    updated.notifications = budgets[new["BudgetName"]].notifications
    budgets[new["BudgetName"]] = updated
    return "{}"


def _update_notification(self: BudgetsResponse) -> str:
    _notification(self, "OldNotification").details = self._get_param("NewNotification")
    return "{}"


def _list_tags(self: BudgetsResponse) -> str:
    return json.dumps({"ResourceTags": _tags(self)})


def _tag(self: BudgetsResponse) -> str:
    kept = {tag["Key"]: tag for tag in [*_tags(self), *self._get_param("ResourceTags")]}
    _tags(self)[:] = kept.values()
    return "{}"


def _untag(self: BudgetsResponse) -> str:
    _tags(self)[:] = [tag for tag in _tags(self) if tag["Key"] not in self._get_param("ResourceTagKeys")]
    return "{}"


def install() -> None:
    """Put these in the place of moto's."""
    replace(
        BudgetsResponse,
        create_budget=_create,
        describe_subscribers_for_notification=_subscribers,
        update_budget=_update,
        update_notification=_update_notification,
        list_tags_for_resource=_list_tags,
        tag_resource=_tag,
        untag_resource=_untag,
    )
