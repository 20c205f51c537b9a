"""From a pool's settings to the policy that `plan` and `reconcile` work with."""

from lamplighter.capacity.plan import Policy
from lamplighter.config import CommandPool, KeeperConfig, PoolConfig, StaticPool


def policy_of(pool: PoolConfig, keeper: KeeperConfig) -> Policy:
    """The pool's own settings where it has them, the keeper's for the rest."""
    if isinstance(pool, StaticPool | CommandPool):
        if pool.sleep_after is None:
            return Policy(elastic=False, unreachable_after=keeper.unreachable_after)
        return Policy(  # a server's, or a machine's, places for models: it holds each once, however many ask
            sleep_after=float(pool.sleep_after),
            max_replicas=pool.max_loaded,
            per_model=1,
            boot_deadline=float(pool.boot_deadline),
            swap_after=float(pool.swap_after),
            min_residency=float(pool.min_residency),
            drain_deadline=float(keeper.drain_deadline),
            hung_after=float(keeper.hung_after),
            unreachable_after=keeper.unreachable_after,
        )
    return Policy(
        sleep_after=float(pool.sleep_after),
        min_replicas=pool.min_replicas,
        max_replicas=pool.max_replicas,
        boot_deadline=float(pool.boot_deadline),
        swap_after=float(pool.swap_after),
        min_residency=float(pool.min_residency),
        target_per_replica=pool.target_per_replica,
        scale_up_after=float(pool.scale_up_after),
        scale_down_after=float(pool.scale_down_after),
        drain_deadline=float(keeper.drain_deadline),
        hung_after=float(keeper.hung_after),
        unreachable_after=keeper.unreachable_after,
    )
