"""Reasons have verdicts, errors have OpenAI's shape, ids are unique and sort."""

import pytest

from lamplighter.core import errors
from lamplighter.core.ids import new_id, secret
from lamplighter.core.reasons import VERDICTS, HealthReason, LossReason, StopReason, WakeFailure, parse_reason


def test_every_failure_has_a_verdict() -> None:
    """If this fails, somebody waits and is told nothing."""
    assert set(VERDICTS) == set(WakeFailure)
    for verdict in VERDICTS.values():
        assert verdict.message.endswith(".")
        assert verdict.next_step.endswith((".", "`."))
        assert verdict.status in (402, 503)


def test_reasons_survive_the_store() -> None:
    """If this fails, a stored reason comes back as another one."""
    every = [reason for kind in (WakeFailure, LossReason, StopReason, HealthReason) for reason in kind]
    assert len({reason.value for reason in every}) == len(every)
    assert all(parse_reason(reason.value) is reason for reason in every)
    assert all(len(reason.value) <= 32 for reason in every)  # the column's width
    assert parse_reason(None) is None
    with pytest.raises(ValueError, match="unknown reason"):
        parse_reason("because")


def test_every_error_has_a_code_of_its_own() -> None:
    """If this fails, two different problems look the same to a program."""
    pending, kinds = [errors.LamplighterError], list[type[errors.LamplighterError]]()
    while pending:
        kind = pending.pop()
        kinds.append(kind)
        pending.extend(kind.__subclasses__())
    ours = [kind for kind in kinds if kind.__module__ == errors.__name__]
    assert len({kind.code for kind in ours}) == len(ours)
    assert all(kind.exit_code > 0 for kind in ours)


def test_a_request_error_has_openai_s_shape() -> None:
    """If this fails, SDKs show `None` instead of the reason."""
    error = errors.RequestError("No such model.", status=404, code="model_not_found", param="model", next_step="List them.")
    assert error.body() == {
        "error": {
            "message": "No such model.", "type": "invalid_request_error", "param": "model", "code": "model_not_found",
            "next_step": "List them.",
        }
    }  # fmt: skip
    assert str(error) == "No such model."
    assert errors.ProviderError("x", reason=WakeFailure.QUOTA).code == "quota"
    assert errors.SourceError("x", reason=WakeFailure.DISK_FULL).code == "disk_full"
    assert errors.ConfigError("x", where="models.a", line=3).line == 3


def test_ids_are_unique_and_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, history is shown out of order, or one row overwrites another."""
    ids = [new_id("rep") for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(len(one) == 24 and one.startswith("rep_") for one in ids)
    made = []
    for at in (1_000_000_000_000, 1_000_000_001_000, 9_000_000_000_000):
        monkeypatch.setattr("lamplighter.core.ids.time.time_ns", lambda at=at: at * 1_000_000)
        made.append(new_id("x"))
    assert made == sorted(made)


def test_secrets_have_the_entropy_they_say() -> None:
    """If this fails, keys can be guessed."""
    assert len({secret("lk") for _ in range(100)}) == 100
    assert secret("lk").startswith("lk-")
    assert len(secret("lk", 32)) == 3 + 43
