"""What is decided about each part: installed, changed, mended, kept, left to its owner. Pure."""

from typing import Any

import pytest

from lamplighter.operations.cluster import plan
from lamplighter.operations.cluster.errors import ClusterError
from lamplighter.operations.cluster.helm import Release
from lamplighter.operations.cluster.parts import NAMES, PARTS, Part, chosen, shipped_chart, shipped_values
from lamplighter.operations.cluster.plan import Action, Step
from lamplighter.operations.cluster.run import guard
from lamplighter.operations.cluster.sight import MONITORS, Seen, Workload

EMPTY = Seen("https://cluster.test", "v1.35.0")
BY_NAME = {part.name: part for part in PARTS}


def release(name: str, **changes: Any) -> Release:
    """A release of ours, as it should be."""
    part = BY_NAME[name]
    whole: dict[str, Any] = {
        "name": part.release, "namespace": part.namespace, "revision": 2, "status": "deployed", "chart": part.chart.name,
        "version": part.chart.version, "part": name, "digest": plan.digest(part.chart.version, {}),
    }  # fmt: skip
    return Release(**{**whole, **changes})


def workload(image: str, *, kind: str = "Deployment", of: tuple[str, str] | None = None) -> Workload:
    return Workload(kind, "somewhere", "theirs", (image,), of)


def step(steps: Any, name: str) -> Step:
    (found,) = [one for one in steps if one.part.name == name]
    assert isinstance(found, Step)
    return found


def decided(name: str, seen: Seen = EMPTY, *releases: Release, **options: Any) -> Step:
    return step(plan.install(seen, releases, NAMES, {}, **options), name)


def test_an_empty_cluster_gets_everything_in_an_order_that_works() -> None:
    """A part before what it needs: Lamplighter's monitors without their definition, an exporter without GPUs' labels."""
    steps = plan.install(EMPTY, (), NAMES, {})
    assert {one.action for one in steps} == {Action.INSTALL}
    order = [one.part.name for one in steps]
    for part in PARTS:
        for before in part.after:
            assert order.index(before) < order.index(part.name)
    assert order[-1] == "lamplighter"
    assert [one.part.name for one in plan.uninstall(EMPTY, (), NAMES)] == order[::-1]


@pytest.mark.parametrize(
    ("found", "action", "why"),
    [
        (release("monitoring"), Action.KEEP, "as it should be"),
        (release("monitoring", version="88.0.0"), Action.CHANGE, "from 88.0.0 to"),
        (release("monitoring", digest="other"), Action.CHANGE, "values changed"),
        (release("monitoring", version="99.1.0"), Action.KEEP, "newer"),
        (release("monitoring", status="failed", revision=1), Action.MEND, "it is failed"),
        (release("monitoring", status="pending-install", revision=1), Action.MEND, "interrupted"),
        (release("monitoring", status="pending-upgrade"), Action.MEND, "interrupted"),
        (release("monitoring", status="uninstalling"), Action.MEND, "interrupted"),
        (release("monitoring", part=None), Action.OWN, "your own: the Helm release monitoring/monitoring"),
    ],
)
def test_what_helm_has_already(found: Release, action: Action, why: str) -> None:
    """A second run would install twice, never finish what was cut off, or put an old version over a new one."""
    one = decided("monitoring", EMPTY, found)
    assert one.action is action
    assert why in one.why


@pytest.mark.parametrize(
    ("name", "image", "kind"),
    [
        ("cert-manager", "quay.io/jetstack/cert-manager-controller:v1.18.2", "Deployment"),
        ("monitoring", "quay.io/prometheus-operator/prometheus-operator:v0.85.0", "Deployment"),
        ("ingress", "docker.io/traefik:v3.5.0", "Deployment"),
        ("ingress", "rancher/mirrored-library-traefik:3.3.6", "Deployment"),
        ("ingress", "registry.k8s.io/ingress-nginx/controller:v1.13.0", "DaemonSet"),
        ("device-plugin", "nvcr.io/nvidia/k8s-device-plugin:v0.17.4", "DaemonSet"),
        ("device-plugin", "nvcr.io/nvidia/gpu-operator:v25.3.0", "Deployment"),
        ("dcgm-exporter", "nvcr.io/nvidia/k8s/dcgm-exporter:4.2.3-4.1.3-ubuntu22.04", "DaemonSet"),
        ("liqo", "ghcr.io/liqotech/liqo-controller-manager:v1.1.0", "Deployment"),
        ("lamplighter", "ghcr.io/lamplighter/lamplighter:0.0.9", "Deployment"),
    ],
)
def test_a_part_of_somebody_else_is_theirs(name: str, image: str, kind: str) -> None:
    """Two operators for one kind of resource fight over every object: the user's cluster would be broken by our installation."""
    seen = Seen("s", "v1.35.0", workloads=[workload(image, kind=kind)])
    one = decided(name, seen)
    assert one.action is Action.OWN
    assert f"{kind} somewhere/theirs" in one.why
    assert step(plan.uninstall(seen, (), NAMES), name).action is Action.OWN


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_our_own_workloads_are_not_somebody_elses(part: Part) -> None:
    """The second run would take our own installation for the user's, and never upgrade it again."""
    mine = workload(f"registry.test/{part.programs[0].strip('/:@')}:1", of=(part.namespace, part.release))
    assert decided(part.name, Seen("s", "v1.35.0", workloads=[mine]), release(part.name)).action is Action.KEEP


def test_an_ingress_class_or_gpus_that_are_there_are_enough() -> None:
    """A cloud's own ingress and GPU nodes run no image that we would know."""
    seen = Seen("s", "v1.35.0", classes={"alb": None}, gpus=4)
    assert "IngressClass alb" in decided("ingress", seen).why
    assert decided("device-plugin", seen).action is Action.OWN
    ours = Seen("s", "v1.35.0", classes={"traefik": ("traefik", "traefik")}, gpus=4)
    assert decided("ingress", ours, release("ingress"), release("device-plugin")).action is Action.KEEP
    assert decided("device-plugin", ours, release("ingress"), release("device-plugin")).action is Action.KEEP


def test_an_upgrade_adds_nothing() -> None:
    """Whoever upgrades cert-manager would find a monitoring stack with a volume that they did not ask for."""
    steps = plan.install(EMPTY, [release("cert-manager", version="v1.20.0")], NAMES, {}, add=False)
    assert [one.part.name for one in steps if one.action.changes] == ["cert-manager"]
    assert step(steps, "monitoring").action is Action.LEAVE


def test_what_makes_no_sense_is_left_out_until_it_is_there() -> None:
    """Liqo in a cluster that joins nothing is three controllers for nobody; one that is installed must still be kept in order."""
    assert decided("liqo", EMPTY, needless={"liqo": "nobody needs it"}).why == "nobody needs it"
    assert decided("liqo", EMPTY, release("liqo", digest="x"), needless={"liqo": "nobody"}).action is Action.CHANGE


def test_only_and_skip() -> None:
    """A part that was not asked for would be changed; a slip in its name would change all or nothing."""
    assert [part.name for part in chosen(["liqo", "ingress"], ["liqo"])] == ["ingress"]
    assert len(chosen((), ("liqo",))) == len(PARTS) - 1
    with pytest.raises(ClusterError) as refused:
        chosen(["prometheus"], ())
    assert "monitoring" in refused.value.next_step
    steps = plan.install(EMPTY, [release("cert-manager")], {"ingress"}, {})
    assert [one.part.name for one in steps if one.action is not Action.LEAVE] == ["ingress"]


def test_an_uninstallation_takes_only_what_is_ours() -> None:
    """The user's cert-manager would be gone, and with it every certificate of the cluster."""
    theirs = release("cert-manager", part=None)
    steps = plan.uninstall(EMPTY, [theirs, release("monitoring"), release("lamplighter")], NAMES)
    assert [one.part.name for one in steps if one.action is Action.REMOVE] == ["lamplighter", "monitoring"]
    assert step(steps, "cert-manager").action is Action.OWN


def test_a_namespace_that_a_failed_installation_left_is_taken_away() -> None:
    """After `uninstall` something of ours would still be there, and nothing would ever remove it."""
    seen = Seen("s", "v", namespaces={"traefik": {"lamplighter.dev/part": "ingress"}, "monitoring": {"team": "theirs"}})
    steps = plan.uninstall(seen, (), NAMES)
    assert [one.part.name for one in steps if one.action is Action.REMOVE] == ["ingress"]


def test_liqo_is_not_taken_away_under_joined_clusters() -> None:
    """Nodes that nobody can remove any more, and pods that hang for ever."""
    seen = Seen("s", "v1.35.0", virtual_nodes=("gpu-1",))
    with pytest.raises(ClusterError, match="gpu-1"):
        guard(plan.uninstall(seen, [release("liqo")], NAMES), seen)
    guard(plan.uninstall(seen, [release("monitoring")], NAMES), seen)
    with pytest.raises(ClusterError, match="gpu-1"):
        guard(plan.install(seen, [release("liqo", version="v1.1.0")], NAMES, {}), seen)
    guard(plan.install(seen, [release("liqo", digest="other")], NAMES, {}), seen)


@pytest.mark.parametrize(
    ("seen", "wanted", "releases", "expected"),
    [
        (EMPTY, NAMES, (), True),
        (EMPTY, ("lamplighter",), (), False),
        (Seen("s", "v", definitions=frozenset({MONITORS})), ("lamplighter",), (release("monitoring"),), True),
        (Seen("s", "v", workloads=[workload("prometheus-operator:1")], definitions=frozenset({MONITORS})), NAMES, (), True),
        (Seen("s", "v", workloads=[workload("prometheus-operator:1")]), NAMES, (), False),
    ],
)
def test_monitors_are_made_only_where_somebody_reads_them(seen: Seen, wanted: Any, releases: Any, expected: bool) -> None:
    """Without the definition Helm refuses the whole chart."""
    assert plan.has_monitors(plan.install(seen, releases, wanted, {}), seen) is expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("v1.21.1", "v1.21.0", True),
        ("1.10.0", "1.9.0", True),
        ("v1.21.1", "1.21.1", False),
        ("1.0.0-rc.1", "0.9.0", False),
        ("x", "1.0.0", False),
    ],
)
def test_versions(one: str, other: str, expected: bool) -> None:
    """1.10 is newer than 1.9."""
    assert plan.newer(one, other) is expected


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_what_is_shipped_is_there_and_pinned(part: Part) -> None:
    """A chart without a version is another one tomorrow; values that are not in the package stop the installation halfway."""
    assert isinstance(shipped_values(part), dict)
    assert plan._numbers(part.chart.version)
    if part.name == "lamplighter":
        assert (shipped_chart() / "Chart.yaml").is_file()
        assert part.chart.repository == ""
    else:
        assert part.chart.repository.startswith(("https://", "oci://"))
