"""The amounts asked of a GPU cluster: too much and its own pods starve, too little and the model does not fit, no GPU and it never runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamplighter.core.errors import ProviderError
from lamplighter.core.machines import INSTANCES
from lamplighter.federation.slice import PODS, Slice, allocatable, amount, slice_for, slice_of

GIB = 1024


@pytest.mark.parametrize(
    ("instance_type", "expected"),
    [
        ("g4dn.xlarge", Slice("3528m", "12231Mi", 99, 1)),
        ("g5.12xlarge", Slice("43029m", "162267Mi", 99, 4)),
        ("p5.48xlarge", Slice("172305m", "1744470Mi", 99, 8)),
    ],
)
def test_by_instance_type(instance_type: str, expected: Slice) -> None:
    """A slice that changes unseen: pods that fitted yesterday would wait for ever today."""
    assert slice_for(instance_type) == expected


@pytest.mark.parametrize("instance_type", sorted(INSTANCES))
def test_leaves_room_for_the_node_itself(instance_type: str) -> None:
    """Whatever the instance: the slice is less than the machine by the kernel, the kubelet, k3s and Liqo, and has all GPUs."""
    machine, asked = INSTANCES[instance_type], slice_for(instance_type)
    cpu, memory = allocatable(machine)
    assert 0.8 < amount(asked.cpu) / machine.vcpus < 0.9
    assert machine.memory * GIB - amount(asked.memory) / 1024**2 > 1000
    assert amount(asked.memory) / 1024**2 <= 0.9 * memory
    assert amount(asked.cpu) * 1000 <= 0.9 * cpu
    assert asked.gpus == machine.gpus >= 1


def test_reserve_is_that_of_eks() -> None:
    """The formula's source: 6 %, 1 %, 0.5 %, 0.25 % of the cores; 255 MiB and 11 for each pod."""
    cpu, memory = allocatable(INSTANCES["g4dn.xlarge"])
    assert cpu == 4000 - (60 + 10 + 5 + 5)
    assert memory == int(16 * GIB * 0.925 - (255 + 11 * PODS) - 100)


def test_unknown_type_names_the_family() -> None:
    """A typing mistake: the message shows what there is."""
    with pytest.raises(ProviderError) as caught:
        slice_for("g5.9xlarge")
    assert "g5.12xlarge" in caught.value.next_step
    with pytest.raises(ProviderError) as caught:
        slice_for("m5.large")
    assert "--cpu" in caught.value.next_step


def test_of_nodes_that_run() -> None:
    """A cluster that is no cloud instance: the sum of what its nodes can give; one that is cordoned gives nothing."""
    node = {"status": {"allocatable": {"cpu": "8", "memory": "32Gi", "pods": "110", "nvidia.com/gpu": "2"}}}
    cordoned = {"spec": {"unschedulable": True}, **node}
    assert slice_of([node, node, cordoned], 0.5) == Slice("8000m", "32768Mi", 110, 4)
    with pytest.raises(ProviderError, match="no node"):
        slice_of([cordoned])


def test_no_gpu_is_not_asked_for() -> None:
    """`nvidia.com/gpu: 0` in a slice: the virtual node would show a resource that is not there."""
    assert Slice("1", "1Gi", 10, 0).resources() == {"cpu": "1", "memory": "1Gi", "pods": "10"}


@given(st.floats(0.01, 1.0), st.sampled_from(sorted(INSTANCES)))
def test_share_is_kept(share: float, instance_type: str) -> None:
    """Never more than the share, whatever it is."""
    asked, whole = slice_for(instance_type, share), slice_for(instance_type, 1.0)
    assert amount(asked.cpu) <= amount(whole.cpu) * share + 1e-9
    assert amount(asked.memory) <= amount(whole.memory) * share + 1e-6
    assert asked.gpus == whole.gpus


@pytest.mark.parametrize(
    ("text", "number"), [("500m", 0.5), ("1Ki", 1024), ("2.5Gi", 2.5 * 1024**3), ("1e3", 1000), ("12M", 12e6), ("3k", 3000)]
)
def test_quantities(text: str, number: float) -> None:
    """Kubernetes writes the same amount in many ways."""
    assert amount(text) == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "x", "1 Gi", "-1", "1Xi"])
def test_no_quantity(text: str) -> None:
    """Nonsense is refused, not taken for zero."""
    with pytest.raises(ValueError, match="not a quantity"):
        amount(text)
