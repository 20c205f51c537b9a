"""An agent's whole life against AWS on loopback: hello, assignment, mesh, engine, notice, and every way in which it ends."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lamplighter.core.reasons import WakeFailure
from lamplighter.node import agent as agent_module
from lamplighter.node.assignment import Assignment
from lamplighter.node.basics import SIGNS, Broken, judge
from tests.node.cloud import INSTANCE, ROLE, Cloud, assignment
from tests.node.parts import Node, next_host, node, until

HOST = "127.77.140.7"
"""Another one in each test: what listened there may take a moment to go."""


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """AWS on loopback."""
    with Cloud() as running:
        yield running


@pytest.fixture
def made(cloud: Cloud, tmp_path: Path) -> Iterator[Node]:
    """A node that is not started yet."""
    with node(cloud, tmp_path, HOST) as one:
        yield one


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same order of things, in shorter limits, on an address of its own."""
    monkeypatch.setitem(globals(), "HOST", next_host())
    monkeypatch.setattr(agent_module, "FAREWELL", 2.0)
    monkeypatch.setattr(agent_module, "TERMINATE", 1.0)


def serving(one: Node, cloud: Cloud, **engine: Any) -> None:
    """Bring it as far as the keeper's first dial, and a ready engine."""
    one.start()
    cloud.assign(assignment(HOST, **engine))
    until(lambda: one.result or (one.agent.assignment and _answers(one)))
    with contextlib.suppress(httpx.HTTPError):  # it may have failed already
        one.ask("GET", "/status")


def _answers(one: Node) -> bool:
    try:
        return one.ask("GET", "/health", token=None).status_code == 200
    except httpx.HTTPError:
        return False


def states(cloud: Cloud) -> list[tuple[str, str]]:
    """What the keeper was told of stages, without progress."""
    return [(m["name"], m["state"]) for m in cloud.kinds("stage") if m["state"] != "progress"]


def test_a_node_goes_from_hello_to_a_ready_engine(made: Node, cloud: Cloud) -> None:
    """The whole wake as the node sees it: every stage in its order, the engine with its key, on the mesh's address."""
    serving(made, cloud)
    until(lambda: made.agent.engine.state == "ready")
    until(lambda: ("load", "end") in states(cloud))
    assert states(cloud) == [(name, state) for name in ("boot", "mesh", "pull", "load") for state in ("begin", "end")]
    (hello, *_) = cloud.kinds("hello")
    assert hello["instance"] == INSTANCE
    assert "NEBULA X25519 PUBLIC KEY" in hello["public_key"]
    assert "PRIVATE" not in json.dumps(cloud.messages)
    assert made.mesh.files == assignment(HOST)["nebula"]
    assert made.runtime.started == [(HOST, {"DO_NOT_TRACK": "1", "VLLM_API_KEY": "engine-key"})]
    assert made.ask("POST", "/lease", {"seconds": 60}).json() == {"remaining": 60}
    status = made.ask("GET", "/status").json()
    assert status["engine"] == {"state": "ready", "detail": None, "exit": None}
    assert status["public_key"] == hello["public_key"]
    assert not cloud.unsigned


def cluster(script: str, **files: str) -> dict[str, Any]:
    """An assignment of a cluster instead of an engine."""
    given = assignment(HOST)
    del given["engine"]
    return given | {
        "cluster": {"script": script, "files": {f"/etc/rancher/k3s/{name}.yaml": text for name, text in files.items()}}
    }


def test_a_node_becomes_a_cluster_and_gives_its_kubeconfig(made: Node, cloud: Cloud) -> None:
    """The whole wake as such a node sees it: no engine and no container of ours, and home can reach the cluster over the mesh."""
    root = made.agent.settings.path("/")
    log = root / "var/log/lamplighter/cluster.log"
    log.parent.mkdir(parents=True)
    made.start()
    cloud.assign(
        cluster(
            f"exec >>{log} 2>&1; cat {root}/etc/rancher/k3s/config.yaml", config="a: b\n", k3s="server: https://127.0.0.1:6443\n"
        )
    )
    until(lambda: made.agent.assignment and _answers(made))
    made.ask("GET", "/status")
    until(lambda: ("cluster", "end") in states(cloud))
    assert states(cloud) == [(name, state) for name in ("boot", "mesh", "cluster") for state in ("begin", "end")]
    assert made.ask("GET", "/status").json()["engine"]["state"] == "ready"
    assert made.runtime.started == []
    assert made.ask("GET", "/kubeconfig").text == f"server: https://{HOST}:6443\n"
    assert made.ask("GET", "/kubeconfig", token="wrong").status_code == 401
    assert "a: b" in made.ask("GET", "/logs?name=cluster").text
    assert made.ask("GET", "/logs?name=engine").text == "", "there is no engine's container to be asked"
    assert made.ask("POST", "/end", {"reason": "asleep"}).status_code == 202
    until(lambda: made.result)
    assert cloud.terminated()


def test_a_cluster_that_cannot_be_made_ends_the_node_with_its_last_lines(made: Node, cloud: Cloud) -> None:
    """A download that fails would bill until the boot deadline, and nobody would know of which file."""
    log = made.agent.settings.path("/var/log/lamplighter/cluster.log")
    log.parent.mkdir(parents=True)
    made.start()
    cloud.assign(cluster(f"exec >>{log} 2>&1; echo 'k3s: Could not resolve: no such host'; exit 6"))
    until(lambda: made.result)
    failure = cloud.kinds("end")[0]["failure"]
    assert (failure["stage"], failure["reason"]) == ("cluster", "download_failed")
    assert "Could not resolve" in failure["detail"]
    assert cloud.terminated()


def test_a_clusters_script_is_never_run_twice_at_once(made: Node, cloud: Cloud) -> None:
    """An agent that was killed and started again would start a second k3s while the first comes up."""
    root = made.agent.settings.path("/")
    script = f"mkdir {root}/alone || exit 3; sleep 0.3; rmdir {root}/alone; echo one >>{root}/runs"
    made.start()
    cloud.assign(cluster(script))
    until((root / "alone").exists)
    made.agent._run_engine()  # what a second agent would do
    assert (root / "runs").read_text() == "one\none\n"
    assert made.agent.failure is None


@pytest.mark.parametrize(
    "broken", [{"script": 1, "files": {}}, {"script": "", "files": {"a": 1}}, {"files": {}}, {"script": ""}, "x", []]
)
def test_a_cluster_that_this_agent_does_not_understand_is_not_taken(broken: Any) -> None:
    """Half of a cluster is none: better nothing runs, and the boot deadline tells."""
    with pytest.raises(ValueError, match=r"."):
        Assignment.parse({**assignment(HOST), "engine": None, "cluster": broken}, INSTANCE)


def test_an_assignment_for_another_or_of_rubbish_is_not_taken(made: Node, cloud: Cloud) -> None:
    """A mix-up at the keeper must not give one node another's identity; it waits for its own."""
    key = f"nodes/{ROLE}:{INSTANCE}/assignment.json"
    cloud.objects[key] = json.dumps(assignment(HOST) | {"instance": "i-other"}).encode()
    made.start()
    until(lambda: cloud.kinds("hello"))
    cloud.objects[key] = b"{"
    time.sleep(1.2)
    assert made.agent.assignment is None
    cloud.assign(assignment(HOST))
    until(lambda: made.agent.assignment)


def test_the_hubs_token_comes_from_the_secret_store_alone(made: Node, cloud: Cloud) -> None:
    """It stands in no assignment and no user data; an engine that wants none gets none."""
    cloud.secrets["hub-secret"] = "hf_x\n"
    given = assignment(HOST) | {"hub_token_secret": "hub-secret"}
    made.start()
    cloud.assign(given)
    until(lambda: made.runtime.started)
    assert made.runtime.started[0][1]["HF_TOKEN"] == "hf_x"


def test_a_token_that_cannot_be_read_is_left_out(made: Node, cloud: Cloud) -> None:
    """Most models need none: the wake must not fail for it. A gated one then fails with its own reason."""
    made.start()
    cloud.assign(assignment(HOST) | {"hub_token_secret": "missing"})
    until(lambda: made.runtime.started)
    assert "HF_TOKEN" not in made.runtime.started[0][1]


def test_a_preparation_comes_after_the_engines_first_answer(made: Node, cloud: Cloud) -> None:
    """An Ollama that answers has no model yet: counted as ready it would refuse every request."""
    serving(made, cloud, prepare=["ollama", "pull", "m"])
    until(lambda: made.agent.engine.state == "ready")
    assert made.runtime.prepared == [("ollama", "pull", "m")]


def test_a_preparation_that_fails_ends_the_node_with_its_reason(made: Node, cloud: Cloud) -> None:
    """A misspelt model must not bill until the boot deadline."""
    made.runtime.prepare_result = (1, "pulling manifest\nError: pull model manifest: file does not exist\n")
    serving(made, cloud, prepare=["ollama", "pull", "m"])
    until(lambda: made.result)
    assert cloud.kinds("end")[0]["failure"]["reason"] == "model_not_found"
    assert cloud.terminated()


def test_an_engine_that_ends_while_it_loads_says_why_and_the_node_ends(made: Node, cloud: Cloud) -> None:
    """The person reads "does not fit into memory" instead of waiting a quarter of an hour."""
    made.runtime.answers = 503
    made.runtime.log_text = "loading\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB\n"
    serving(made, cloud)
    until(lambda: made.runtime.started)
    made.runtime.code, made.runtime.now = 1, "exited"
    until(lambda: made.result)
    (end,) = cloud.kinds("end")
    assert (end["reason"], end["failure"]["reason"], end["failure"]["stage"]) == ("failed", "out_of_memory", "load")
    assert "CUDA out of memory" in end["detail"]
    assert cloud.objects[f"nodes/{ROLE}:{INSTANCE}/logs/engine.log"].startswith(b"loading")
    assert len(cloud.terminated()) == 1


def test_an_engine_killed_for_its_memory_is_out_of_memory(made: Node, cloud: Cloud) -> None:
    """The kernel kills without a word in the engine's log; the exit status says it."""
    made.runtime.answers, made.runtime.log_text = 503, "loading"
    serving(made, cloud)
    until(lambda: made.runtime.started)
    made.runtime.code, made.runtime.now = 137, "exited"
    until(lambda: cloud.kinds("end"))
    assert cloud.kinds("end")[0]["failure"]["reason"] == "out_of_memory"


def test_an_image_that_cannot_be_pulled_ends_the_node(made: Node, cloud: Cloud) -> None:
    """With the stage in which it happened, so that the page shows where the wake broke."""
    made.runtime.fails = Broken("bad_image", "manifest unknown")
    serving(made, cloud)
    until(lambda: made.result)
    assert cloud.kinds("end")[0]["failure"] == {"stage": "pull", "reason": "bad_image", "detail": "manifest unknown"}


def test_an_engine_that_ends_later_is_shown_and_ends_no_node(made: Node, cloud: Cloud) -> None:
    """The keeper decides what follows a crash; the node only tells, with the exit status and the last lines."""
    serving(made, cloud)
    until(lambda: made.agent.engine.state == "ready")
    made.runtime.code, made.runtime.now = 139, "exited"
    until(lambda: made.agent.engine.state == "exited")
    assert made.ask("GET", "/status").json()["engine"] == {"state": "exited", "detail": "the engine's log", "exit": 139}
    assert not made.result


def test_a_mesh_that_does_not_start_ends_the_node(made: Node, cloud: Cloud) -> None:
    """A certificate that Nebula refuses: nobody could ever dial this node."""
    made.mesh.runs = False
    made.start()
    cloud.assign(assignment(HOST))
    until(lambda: made.result, 20)
    assert cloud.kinds("end")[0]["failure"] == {
        "stage": "mesh",
        "reason": "mesh_timeout",
        "detail": "nebula does not run: no output",
    }


def test_a_spot_notice_is_shown_and_the_node_ends_itself_in_time(made: Node, cloud: Cloud) -> None:
    """Ended by AWS alone, its group would launch another; ended by itself shortly before, it does not."""
    serving(made, cloud)
    at = time.time() + 22.5
    cloud.metadata["spot/instance-action"] = json.dumps(
        {"action": "terminate", "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))}
    )
    until(lambda: made.agent.notice)
    assert made.ask("GET", "/status").json()["notice"]["at"] == pytest.approx(at, abs=1)
    until(lambda: made.result)
    assert cloud.kinds("end")[0]["reason"] == "spot"
    assert cloud.terminated()


def test_a_rebalance_recommendation_is_a_warning_only(made: Node, cloud: Cloud) -> None:
    """It names no time and may pass; the keeper replaces the node while it still answers."""
    cloud.metadata["events/recommendations/rebalance"] = '{"noticeTime": "2026-11-28T21:00:00Z"}'
    made.start()
    until(lambda: made.agent.notice)
    assert made.agent.notice == {"kind": "rebalance", "at": None, "detail": '{"noticeTime": "2026-11-28T21:00:00Z"}'}
    assert made.agent.deadman.due() is None


def test_never_leased_it_ends_itself(cloud: Cloud, tmp_path: Path) -> None:
    """The keeper launched it and died. The second dead-man, alone."""
    with node(cloud, tmp_path, HOST, boot_deadline=1.0) as one:
        one.start()
        until(lambda: one.result)
        assert one.result == [0]
    assert [m["reason"] for m in cloud.kinds("end")] == ["boot_deadline"]
    assert len(cloud.terminated()) == 1


def test_a_lease_that_runs_out_ends_it_after_the_drain(cloud: Cloud, tmp_path: Path) -> None:
    """Home's connection is cut: nothing there can end the machine, so it does itself."""
    with node(cloud, tmp_path, HOST, lease=0.6, drain=0.6) as one:
        one.start()
        one.agent.deadman.renew(60)
        began = time.monotonic()
        until(cloud.terminated)
        assert time.monotonic() - began >= 1.2
    assert cloud.kinds("end")[0]["reason"] == "lease"


def test_a_killed_agent_comes_back_to_the_same_deadline(cloud: Cloud, tmp_path: Path) -> None:
    """Killed and started again four times over: the end comes when it would have come."""
    began = time.monotonic()
    for _ in range(4):
        with node(cloud, tmp_path, HOST, boot_deadline=2.0) as one:
            one.start()
            time.sleep(0.3)
    with node(cloud, tmp_path, HOST, boot_deadline=2.0) as one:
        one.start()
        until(lambda: one.result)
    assert time.monotonic() - began < 4.5
    assert len(cloud.terminated()) == 1


def test_killed_while_ending_the_next_agent_ends_it(cloud: Cloud, tmp_path: Path) -> None:
    """The reason is kept, and the new agent finds out by itself who it is."""
    with node(cloud, tmp_path, HOST) as one:
        one.agent.deadman.end("asked")
        one.agent.deadman.keep()
    with node(cloud, tmp_path, HOST) as one:
        one.start()
        until(lambda: one.result)
    assert cloud.kinds("end")[0]["reason"] == "asked"
    assert cloud.terminated()[0]["InstanceId"] == INSTANCE


def test_a_restarted_agent_goes_on_with_its_engine_and_its_newer_certificate(cloud: Cloud, tmp_path: Path) -> None:
    """No second engine on the same port, no old certificate over a renewed one, no second wake in the stages."""
    with node(cloud, tmp_path, HOST) as one:
        serving(one, cloud)
        until(lambda: one.agent.engine.state == "ready")
        one.stop()
        with node(cloud, tmp_path, HOST) as two:
            two.runtime.now = "running"
            two.start()
            until(lambda: two.agent.engine.state == "ready", 15)
            assert two.runtime.started == []
            assert two.mesh.files == {}
            names = [stage["name"] for stage in two.agent.stages.listed()]
            assert names == ["boot", "mesh", "pull", "load"]
            assert two.agent.public_key == one.agent.public_key


@pytest.mark.parametrize("broken", [{"autoscaling"}, {"autoscaling", "sqs", "s3"}, {"metadata"}])
def test_when_aws_does_not_answer_the_machine_is_shut_down(cloud: Cloud, tmp_path: Path, broken: set[str]) -> None:
    """The last resort. The launch template makes a shutdown a termination."""
    marker = tmp_path / "down"
    with node(cloud, tmp_path, HOST, boot_deadline=0.5, testing={"shutdown": ["touch", str(marker)]}) as one:
        cloud.broken |= broken
        began = time.monotonic()
        one.start()
        until(lambda: one.result)
        assert one.result == [0]
        assert time.monotonic() - began < 6
    assert marker.exists()


def test_when_nothing_at_all_works_it_says_so_and_is_started_again(cloud: Cloud, tmp_path: Path) -> None:
    """Its result tells systemd (and the loop where there is none) to start it again: it tries until the machine is gone."""
    cloud.broken |= {"autoscaling", "sqs", "s3"}
    with node(cloud, tmp_path, HOST, boot_deadline=0.3, testing={"shutdown": ["false"]}) as one:
        one.start()
        until(lambda: one.result)
        assert one.result == [1]
    cloud.broken.clear()
    with node(cloud, tmp_path, HOST, boot_deadline=0.3) as two:
        two.start()
        until(lambda: two.result)
        assert two.result == [0]
    assert cloud.terminated()


def test_last_words_that_hang_do_not_keep_it_from_ending(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that never answers, a disk that hangs: each has its limit."""
    with node(cloud, tmp_path, HOST, boot_deadline=0.3) as one:
        monkeypatch.setattr(one.agent, "_farewell", lambda reason: time.sleep(60))
        one.start()
        until(lambda: one.result)
    assert cloud.terminated()


def test_a_thread_that_breaks_is_started_again_and_no_matter_to_the_dead_man(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong elsewhere, the end comes; and a fault that passes costs a second, not the wake."""
    calls: list[float] = []

    def breaks() -> None:
        calls.append(time.monotonic())
        raise RuntimeError("nobody thought of this")

    with node(cloud, tmp_path, HOST, boot_deadline=2.5) as one:
        for name in ("_live", "_watch_spot", "_send", "_follow_steps"):
            monkeypatch.setattr(one.agent, name, _named(breaks, name))
        one.start()
        until(lambda: one.result)
    assert len(calls) > 4
    assert cloud.terminated()


def _named(work: Callable[[], None], name: str) -> Callable[[], None]:
    """A thread is known by its work's name."""

    def named() -> None:
        work()

    named.__name__ = name
    return named


def test_steps_of_the_script_are_shown_with_their_times(made: Node, cloud: Cloud) -> None:
    """A wake that hangs in a step of the script shows which one, and how long it is at it."""
    made.start()
    until(lambda: ("boot", "begin") in states(cloud))
    made.agent.step("storage", "begin", 100.0)
    made.agent.step("storage", "end", 107.5)
    until(lambda: any(m["detail"] == "storage" for m in cloud.kinds("stage")))
    assert made.agent.status()["steps"] == {"storage": {"started_at": 100.0, "ended_at": 107.5}}


def test_a_step_that_fails_ends_the_node_with_its_reason(made: Node, cloud: Cloud) -> None:
    """No driver, no disk, no download: the person reads which, and nothing bills on."""
    made.start()
    until(lambda: made.agent.instance)
    made.agent.step("runtime", "fail", 1.0, "no NVIDIA driver", "engine_missing")
    until(lambda: made.result)
    assert cloud.kinds("end")[0]["failure"] == {
        "stage": "boot",
        "reason": "engine_missing",
        "detail": "runtime: no NVIDIA driver",
    }


def test_a_bake_tells_its_times_and_ends_no_group(cloud: Cloud, tmp_path: Path) -> None:
    """The builder belongs to no group: it is shut down, and what each step cost is on record."""
    with node(cloud, tmp_path, HOST, mode="bake") as one:
        one.start()
        one.agent.step("nebula", "begin", 100.0)
        one.agent.step("nebula", "end", 103.14)
        steps = tmp_path / "run/lamplighter/steps"
        until(steps.is_dir)
        (steps / "1.json").write_text(json.dumps({"name": "baked", "state": "end", "at": 110.0}))
        until((tmp_path / "run/lamplighter/baked").exists)
    (message,) = cloud.kinds("baked")
    assert message["steps"]["nebula"] == 3.1
    assert message["instance"] == INSTANCE
    assert json.loads(cloud.objects[f"nodes/{ROLE}:{INSTANCE}/logs/baked.json"]) == message
    assert not cloud.kinds("hello")
    with node(cloud, tmp_path / "b", HOST, mode="bake", boot_deadline=0.3, testing={"shutdown": ["true"]}) as one:
        one.start()
        until(lambda: one.result)
    assert not cloud.terminated()


def test_every_reason_is_a_word_that_the_keeper_knows() -> None:
    """An unknown one would be shown as nothing at all."""
    for reason, _ in SIGNS:
        WakeFailure(reason)
    for reason in ("engine_crashed", "mesh_timeout", "bad_image", "provider_error", "download_failed", "engine_missing"):
        WakeFailure(reason)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory", "out_of_memory"),
        ("ValueError: 8.0 GiB KV cache is needed, which is larger than", "out_of_memory"),
        ("OSError: [Errno 28] No space left on device", "disk_full"),
        ("huggingface_hub.errors.GatedRepoError: 401 Client Error.", "gated_model"),
        ("RepositoryNotFoundError: 404 Client Error.", "model_not_found"),
        ("Error: pull model manifest: file does not exist", "model_not_found"),
        ("dial tcp: lookup registry.ollama.ai: no such host", "download_failed"),
        ("SafetensorError: Error while deserializing header", "model_corrupt"),
        ("api_server.py: error: unrecognized arguments: --x", "engine_refused"),
        ("could not select device driver with capabilities: [[gpu]]", "engine_missing"),
        ("Segmentation fault", "engine_crashed"),
    ],
)
def test_what_engines_say_has_its_word(text: str, reason: str) -> None:
    """The word decides whether the keeper tries again and what the person is told."""
    assert judge(f"INFO started\n{text}\n") == reason
