"""The same chain with a real API server, scheduler and controllers as the home cluster; Liqo's controllers and the nodes are as pretended as ever."""

from pathlib import Path

import pytest

from tests.cluster_lab.control_plane import ControlPlane
from tests.cluster_lab.lent import LentCluster
from tests.journeys.chain.test_chain import held
from tests.journeys.chain.world import STAGES, world
from tests.journeys.harness import eventually


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_chain_with_a_real_home_cluster(tmp_path: Path, real_cluster: ControlPlane | LentCluster) -> None:
    """What a pretended API server is too kind about (validation, garbage collection, finalizers, the scheduler's own mind) would be met in use."""
    with world(tmp_path, home=real_cluster.access()) as made:
        assert made.left() == []
        answer = held(made)
        assert answer.error is None, f"{answer.error} {made.story()}"
        assert answer.text
        assert made.wake_stages() == STAGES
        made.nothing_left(120)
        (machine,) = made.aws.instances()
        again = held(made)
        assert again.error is None, f"{again.error} {made.story()}"
        (second,) = made.aws.instances(live=True)
        made.aws.reclaim(second.id, seconds=0)
        lost = f"gpu-{second.id}"
        eventually(
            lambda: not [one for one in made.left() if lost in one], what=f"nothing of it is left; {made.left()}", timeout=120
        )
        made.nothing_left(120)
        assert machine.id != second.id
