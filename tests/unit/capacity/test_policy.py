"""From a pool's settings to the policy that decides: every kind has one, and places on one machine are not replicas on many."""

from lamplighter.capacity.policy import policy_of
from lamplighter.config import CommandPool, KeeperConfig, StaticPool

KEEPER = KeeperConfig.model_validate({})


def test_a_machine_that_is_woken_by_commands_holds_each_model_once() -> None:
    """A second replica of a model would be asked of a machine that already serves it, again and again."""
    pool = CommandPool.model_validate(
        {
            "kind": "command",
            "url": "http://desk",
            "wake": "w",
            "sleep": "s",
            "max_loaded": 2,
            "boot_deadline": "3m",
            "sleep_after": "7m",
        }
    )
    policy = policy_of(pool, KEEPER)
    assert (policy.elastic, policy.max_replicas, policy.per_model, policy.min_replicas) == (True, 2, 1, 0)
    assert (policy.boot_deadline, policy.sleep_after) == (180.0, 420.0)


def test_one_that_never_sleeps_is_still_woken() -> None:
    """`sleep_after: never` would count as always on, and nobody wake it."""
    pool = CommandPool.model_validate(
        {"kind": "command", "url": "http://desk", "wake": "w", "sleep": "s", "sleep_after": "never"}
    )
    policy = policy_of(pool, KEEPER)
    assert policy.elastic
    assert policy.sleep_after == float("inf")


def test_a_server_that_is_always_on_is_never_touched() -> None:
    """Somebody else's server would be told to unload what they use."""
    assert not policy_of(StaticPool.model_validate({"kind": "static", "url": "http://nas"}), KEEPER).elastic
    ours = StaticPool.model_validate({"kind": "static", "url": "http://nas", "sleep_after": "5m"})
    assert policy_of(ours, KEEPER).per_model == 1
