"""What each command asks of the API and shows of its answer."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lamplighter.cli import wake as wake_command
from lamplighter.cli.invocation import Invocation
from lamplighter.cli.wake import WakeFailed, follow
from lamplighter.operations.datafolder import DataFolder
from tests.unit.cli.conftest import KEY, Api, Result, model, status

Run = Callable[..., Result]

KEYS = [
    {
        "id": "key_1",
        "name": "laptop",
        "prefix": "lk-aaaa",
        "admin": True,
        "created_at": 1.0,
        "last_used_at": 2.0,
        "revoked_at": None,
    },
    {
        "id": "key_2",
        "name": "script",
        "prefix": "lk-bbbb",
        "admin": False,
        "created_at": 1.0,
        "last_used_at": None,
        "revoked_at": None,
    },
    {
        "id": "key_3",
        "name": "script",
        "prefix": "lk-cccc",
        "admin": False,
        "created_at": 1.0,
        "last_used_at": None,
        "revoked_at": 5.0,
    },
]


def test_status_is_a_table_that_programs_can_cut(lamplighter: Run, running: Api) -> None:
    """`lamplighter status | cut -f1,2` is how people script it before they find --json."""
    running.answers["GET /api/status"] = 200, status(model(), model("big", "awake", sleeping_at=1250.0))
    answer = lamplighter("status")
    assert answer.exit == 0
    rows = [line.split("\t") for line in answer.out.splitlines()]
    assert rows[0][:2] == ["model", "state"]
    assert [row[:2] for row in rows[1:]] == [["small", "asleep"], ["big", "awake, sleeps in 4:10"]]
    assert running.keys == [f"Bearer {KEY}"]


def test_status_json_is_the_apis_answer_and_the_server(lamplighter: Run, running: Api) -> None:
    """Programs rely on the documented shape."""
    running.answers["GET /api/status"] = 200, status(model())
    answer = lamplighter("status", "--json")
    assert answer.json == {**status(model()), "server": {"url": running.url, "pid": 1}}


def test_status_watch_ends_with_an_error_when_the_server_goes(
    lamplighter: Run, running: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A live view of a server that is gone must not stand still as if all were well."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    running.answers["GET /api/status"] = [
        (200, status(model())),
        (200, status(model(state="awake"))),
        (503, {"error": {"message": "Stopping."}}),
    ]
    answer = lamplighter("status", "--watch", "--json")
    assert answer.exit == 7
    assert [json.loads(line)["models"][0]["state"] for line in answer.out.splitlines()] == ["asleep", "awake"]


def test_keys_create_prints_the_key_alone(lamplighter: Run, running: Api) -> None:
    """`KEY=$(lamplighter keys create x)` must hold the key and nothing else."""
    running.answers["POST /api/keys"] = 201, {**KEYS[1], "key": "lk-new"}
    answer = lamplighter("keys", "create", "my script", "--admin")
    assert answer.out == "lk-new\n"
    assert "shown this once" in answer.err
    assert running.asked == [("POST", "/api/keys", {"name": "my script", "admin": True})]
    assert lamplighter("keys", "create", "x", "--json").json["key"] == "lk-new"


def test_keys_list_hides_revoked_ones_until_asked(lamplighter: Run, running: Api) -> None:
    """What no longer opens is noise."""
    running.answers["GET /api/keys"] = 200, {"keys": KEYS}
    assert "key_3" not in lamplighter("keys", "list").out
    assert "revoked" in lamplighter("keys", "list", "--all").out
    assert len(lamplighter("keys", "list", "--json").json["keys"]) == 2


def test_keys_revoke_takes_an_id_or_a_name(lamplighter: Run, running: Api) -> None:
    """People remember names; of two keys with one name only the living one is meant."""
    running.answers |= {
        "GET /api/keys": (200, {"keys": KEYS}),
        "DELETE /api/keys/key_2": (204, None),
        "DELETE /api/keys/key_1": (204, None),
    }
    assert lamplighter("keys", "revoke", "key_1").exit == 0
    assert lamplighter("keys", "revoke", "script").exit == 0
    assert [path for method, path, _ in running.asked if method == "DELETE"] == ["/api/keys/key_1", "/api/keys/key_2"]
    answer = lamplighter("keys", "revoke", "nobody")
    assert answer.exit == 1
    assert "there is no key 'nobody'" in answer.err


def test_keys_create_says_what_the_key_may(lamplighter: Run, running: Api) -> None:
    """A family's owner writes the limits as they read in the guide."""
    running.answers["POST /api/keys"] = 201, {**KEYS[1], "key": "lk-new"}
    lamplighter(
        "keys", "create", "kid", "--rpm", "60", "--tpm", "100_000", "--parallel", "4", "--budget", "5 USD/month", "--budget", "1 USD/day",
        "--tokens", "1000000/month", "--models", "small, big", "--expires", "90d",
    )  # fmt: skip
    [(_, _, body)] = running.asked
    assert body == {
        "name": "kid", "admin": False, "models": ["small", "big"], "expires_in": 90 * 86_400.0,
        "limits": {
            "requests_per_minute": 60, "tokens_per_minute": 100_000, "parallel": 4, "tokens_per_month": 1_000_000,
            "budget_per_month": "5 USD", "budget_per_day": "1 USD",
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ("--rpm", "0"),
        ("--rpm", "many"),
        ("--budget", "5 USD"),
        ("--budget", "5/month"),
        ("--tokens", "5/year"),
        ("--expires", "soon"),
    ],
)
def test_keys_create_refuses_what_is_no_limit(lamplighter: Run, running: Api, arguments: tuple[str, str]) -> None:
    """A typing error must not make a key without any limit."""
    answer = lamplighter("keys", "create", "kid", *arguments)
    assert answer.exit == 1
    assert running.asked == []


def test_keys_limit_changes_only_what_is_named(lamplighter: Run, running: Api) -> None:
    """Raising one limit must not lift the others."""
    limited = {**KEYS[1], "limits": {"parallel": 2, "models": {"big": {"parallel": 1}}}}
    running.answers |= {"GET /api/keys": (200, {"keys": [limited]}), f"PATCH /api/keys/{limited['id']}": (200, limited)}
    lamplighter("keys", "limit", limited["id"], "--rpm", "unlimited")
    lamplighter("keys", "limit", limited["id"], "--budget", "2 EUR/day", "--model", "big")
    lamplighter("keys", "limit", limited["id"], "--clear", "--models", "all", "--no-inference")
    changes = [body for method, _, body in running.asked if method == "PATCH"]
    assert changes == [
        {"limits": {"parallel": 2, "models": {"big": {"parallel": 1}}, "requests_per_minute": "unlimited"}},
        {"limits": {"parallel": 2, "models": {"big": {"parallel": 1, "budget_per_day": "2 EUR"}}}},
        {"inference": False, "models": None, "limits": None},
    ]
    assert lamplighter("keys", "limit", limited["id"]).exit == 1


def test_keys_rotate_expire_and_disable(lamplighter: Run, running: Api) -> None:
    """`NEW=$(lamplighter keys rotate app)` must hold the new key and nothing else."""
    one = KEYS[1]
    running.answers |= {
        "GET /api/keys": (200, {"keys": [one]}),
        f"POST /api/keys/{one['id']}/rotate": (200, {**one, "key": "lk-new"}),
        f"PATCH /api/keys/{one['id']}": (200, one),
    }
    answer = lamplighter("keys", "rotate", one["id"])
    assert answer.out == "lk-new\n"
    assert "opens for 1 day more" in answer.err
    lamplighter("keys", "rotate", one["id"], "--grace", "0s")
    lamplighter("keys", "expire", one["id"], "30d")
    lamplighter("keys", "expire", one["id"], "never")
    lamplighter("keys", "disable", one["id"])
    lamplighter("keys", "enable", one["id"])
    assert [body for method, _, body in running.asked if method != "GET"] == [
        {"grace": 86_400.0}, {"grace": 0.0}, {"expires_in": 30 * 86_400.0}, {"expires_in": None}, {"disabled": True}, {"disabled": False},
    ]  # fmt: skip


def test_login_prints_the_link_alone(lamplighter: Run, running: Api) -> None:
    """`open $(lamplighter login)` works."""
    running.answers["POST /api/login-links"] = 200, {"url": "http://x/#login=t", "login_token": "t", "expires_at": 9.0}
    assert lamplighter("login").out == "http://x/#login=t\n"


def test_wake_and_sleep_order_and_report(lamplighter: Run, running: Api) -> None:
    """Orders go to the API, with the time in seconds."""
    running.answers["POST /api/models/small/wake"] = 202, model(state="waking", wake=None)
    running.answers["POST /api/models/small/sleep"] = 202, model(state="draining")
    assert lamplighter("wake", "small", "--keep", "30m").out == "small: waking\n"
    assert lamplighter("wake", "small", "--json").json["state"] == "waking"
    assert lamplighter("sleep", "small").out == "small: draining\n"
    assert [body for _, _, body in running.asked] == [{"keep": 1800.0}, {}, {}]


@pytest.mark.parametrize("keep", ["never", "soon", "10"])
def test_a_senseless_keep_is_refused(lamplighter: Run, running: Api, keep: str) -> None:
    """A typo must not keep a GPU on for ever."""
    answer = lamplighter("wake", "small", "--keep", keep)
    assert answer.exit == 2
    assert running.asked == []


def test_model_names_are_escaped_in_paths(lamplighter: Run, running: Api) -> None:
    """Names hold slashes and colons; they must not become other routes."""
    running.answers["POST /api/models/meta%2Fllama%3A8b/wake"] = 202, model("meta/llama:8b", "waking")
    assert lamplighter("wake", "meta/llama:8b").exit == 0


def states(*found: dict[str, Any]) -> Callable[[], Any]:
    answers: Iterator[dict[str, Any]] = iter(found)
    return lambda: status(next(answers))


def test_waiting_returns_when_it_is_awake() -> None:
    """`wake --wait` is for scripts that go on afterwards."""
    wake = {
        "started_at": 990.0,
        "stages": [{"name": "load", "started_at": 995.0, "ended_at": None, "progress": 0.4}],
        "eta": {"p50": 20.0},
    }
    found = follow(
        Invocation(json=True), "small", states(model(), model(state="waking", wake=wake), model(state="awake")), until="awake", pause=lambda _: None
    )  # fmt: skip
    assert found["state"] == "awake"


def test_waking_says_the_price_first_and_the_cost_at_the_end(lamplighter: Run, running: Api) -> None:
    """A script's author would learn from the bill what it woke."""
    quote = {"hourly": "0.2104", "least": "0.0531", "currency": "USD", "basis": "spot g4dn.xlarge", "source": "AWS", "at": 1.0}
    cost = {"hourly": "36", "currency": "USD", "basis": "spot g4dn.xlarge", "since": 970.0}
    wake = {"started_at": 960.0, "stages": [], "eta": None, "cost": cost}
    running.answers["POST /api/models/small/wake"] = 202, model(quote=quote)
    running.answers["GET /api/status"] = [
        (200, status(model(state="waking", wake=wake))),
        (200, status(model(state="awake", last_wake={"seconds": 94.0, "at": 1000.0}))),
    ]
    answer = lamplighter("wake", "small", "--wait")
    assert answer.exit == 0
    assert answer.err.splitlines() == [
        "small: waking costs about 0.21 USD/h, at least 0.053 USD (an estimate: spot g4dn.xlarge; AWS)",
        "small: waking, for 0:40, 0.30 USD so far",
        "small: woke in 1:34, 0.30 USD",
    ]


def test_waiting_ends_with_the_reason_when_it_failed() -> None:
    """A script must not wait for a model that can never wake."""
    failure = {"reason": "out_of_memory", "message": "It does not fit.", "next_step": "A smaller one.", "retry_at": None}
    with pytest.raises(WakeFailed, match="It does not fit"):
        follow(
            Invocation(json=True), "small", states(model(state="waking"), model(state="failed", failure=failure)), until="awake", pause=lambda _: None
        )  # fmt: skip


def test_waiting_outlives_an_old_failure_and_one_that_is_tried_again() -> None:
    """The failure of yesterday, or of the first of several tries, is not the answer to this order."""
    old = {"reason": "out_of_memory", "message": "Old.", "next_step": "", "retry_at": None}
    retried = {"reason": "download_failed", "message": "Offline.", "next_step": "", "retry_at": 1002.0}
    found = follow(
        Invocation(json=True),
        "small",
        states(
            model(state="failed", failure=old),
            model(state="waking"),
            model(state="failed", failure=retried),
            model(state="awake"),
        ),
        until="awake",
        pause=lambda _: None,
    )
    assert found["state"] == "awake"


def test_waiting_does_not_wait_for_ever_on_an_old_failure() -> None:
    """When the keeper does not act upon the order, the failure that stands is the answer."""
    old = {"reason": "out_of_memory", "message": "Old.", "next_step": "", "retry_at": None}
    paused = 0.0

    def pause(seconds: float) -> None:
        nonlocal paused
        paused += seconds

    with pytest.raises(WakeFailed):
        follow(Invocation(json=True), "small", lambda: status(model(state="failed", failure=old)), until="awake", pause=pause)
    assert paused >= wake_command._OLD_FAILURE


def test_models_list_works_with_and_without_a_server(lamplighter: Run, running: Api, folder: DataFolder) -> None:
    """Looking at what would be served needs no server."""
    running.answers["GET /api/status"] = 200, status(model(note="Tiny."))
    assert lamplighter("models", "list", "--json").json["models"][0]["note"] == "Tiny."
    folder.forget_server()
    answer = lamplighter("models", "list")
    assert answer.exit == 0
    assert answer.out.splitlines()[1].split("\t") == ["small", "llamacpp", "here", "bundled", "at its first wake"]
    assert "not running" in answer.err


def test_models_pull_refuses_what_nobody_knows(lamplighter: Run, folder: DataFolder) -> None:
    """A typo names the way to what there is."""
    answer = lamplighter("models", "pull", "nonsense")
    assert answer.exit == 1
    assert "lamplighter models catalogue" in answer.err
    assert lamplighter("models", "pull", "hf:nonsense").exit == 5


def test_models_pull_fetches_and_adds(lamplighter: Run, running: Api, folder: DataFolder, tmp_path: Any) -> None:
    """What is pulled while the server runs can be asked for at once."""
    running.answers |= {"GET /api/status": (200, status(model())), "POST /api/models": (201, model("mine"))}
    weights = tmp_path / "Mine-Q4.gguf"
    weights.write_bytes(b"GGUF")
    answer = lamplighter("models", "pull", f"file:{weights}", "--name", "mine", "--json")
    assert answer.exit == 0, answer.err
    assert answer.json == {"name": "mine", "source": f"file:{weights}", "path": str(weights), "added": True}
    assert running.asked[-1] == ("POST", "/api/models", {"name": "mine", "source": f"file:{weights}"})


def test_models_pull_without_a_server_says_how_to_serve_it(lamplighter: Run, folder: DataFolder, tmp_path: Any) -> None:
    """The person is not left with a file and no idea."""
    weights = tmp_path / "Mine-Q4.gguf"
    weights.write_bytes(b"GGUF")
    answer = lamplighter("models", "pull", f"file:{weights}")
    assert answer.exit == 0
    assert "mine-q4: {engine: llamacpp" in answer.err


def test_models_pull_of_another_machine_downloads_nothing_here(lamplighter: Run, api: Api, folder: DataFolder) -> None:
    """The other machine needs the file, not this one."""
    api.answers |= {"GET /api/status": (200, status(model())), "POST /api/models": (201, model("repo"))}
    answer = lamplighter("models", "pull", "hf:owner/Repo-GGUF:Repo-Q4.gguf", "--url", api.url, "--key", "lk-r", "--json")
    assert answer.exit == 0, answer.err
    assert answer.json["added"] is True
    assert api.asked[-1][2] == {"name": "repo-q4", "source": "hf:owner/Repo-GGUF:Repo-Q4.gguf"}
    assert not folder.models.exists()


def test_models_remove_keeps_files_that_others_use(lamplighter: Run, running: Api, folder: DataFolder) -> None:
    """Deleting the weights of a model must not take another one's."""
    shared = folder.models / "hf" / "o" / "r" / "f.gguf"
    alone = folder.models / "hf" / "o" / "r" / "g.gguf"
    shared.parent.mkdir(parents=True)
    shared.write_bytes(b"x" * 10)
    alone.write_bytes(b"x" * 20)
    models = [model(name, source=f"hf:o/r:{file}.gguf") for name, file in (("a", "f"), ("b", "f"), ("c", "g"))]
    running.answers |= {
        "GET /api/status": (200, status(*models)),
        "DELETE /api/models/a": (204, None),
        "DELETE /api/models/c": (204, None),
    }
    assert lamplighter("models", "remove", "a", "--files", "--json").json["freed_bytes"] == 0
    assert lamplighter("models", "remove", "c", "--files", "--json").json["freed_bytes"] == 20
    assert shared.exists()
    assert not alone.exists()


def test_config_check_tells_good_from_bad(
    lamplighter: Run, folder: DataFolder, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is what people run before a restart: every mistake, a missing secret included, and status 3."""
    assert lamplighter("config", "check").exit == 0
    bad = tmp_path / "bad.yaml"
    bad.write_text("server: {port: 99999}\n")
    answer = lamplighter("config", "check", "--config", str(bad))
    assert answer.exit == 3
    assert "bad.yaml:1: server.port" in answer.err
    secret = tmp_path / "secret.yaml"
    secret.write_text("pools: {x: {kind: static, url: 'http://x', key: 'env:NO_SUCH_SECRET'}}\n")
    answer = lamplighter("config", "check", "--config", str(secret))
    assert answer.exit == 3
    assert "pools.x.key: the environment variable NO_SUCH_SECRET is not set" in answer.err
    monkeypatch.setenv("NO_SUCH_SECRET", "s")
    assert lamplighter("config", "check", "--config", str(secret)).exit == 0


def test_config_is_looked_for_here_then_in_the_data_folder(lamplighter: Run, folder: DataFolder, tmp_path: Any) -> None:
    """The order is documented; another one would start another server."""

    def port() -> int:
        return int(lamplighter("config", "show", "--json").json["server"]["port"])

    assert port() == 8080
    folder.config.write_text("server: {port: 1111}")
    assert port() == 1111
    (tmp_path / "lamplighter.yaml").write_text("server: {port: 2222}")
    assert port() == 2222


def test_config_show_can_be_pasted_back(lamplighter: Run, folder: DataFolder, tmp_path: Any) -> None:
    """`lamplighter config show > lamplighter.yaml` is how people begin a file."""
    answer = lamplighter("config", "show")
    (tmp_path / "lamplighter.yaml").write_text(answer.out)
    assert lamplighter("config", "check").exit == 0
    assert lamplighter("config", "show").out == answer.out


def test_config_schema_is_a_schema(lamplighter: Run) -> None:
    """Editors read it."""
    assert lamplighter("config", "schema").json["title"] == "lamplighter.yaml"


def test_version_names_the_parts(lamplighter: Run) -> None:
    """The first thing asked in a bug report."""
    assert set(lamplighter("version", "--json").json) == {"lamplighter", "python", "llamacpp", "platform"}
    assert lamplighter("--version").out.strip() == lamplighter("version", "--json").json["lamplighter"]


def test_a_catalogue_for_people_and_for_programs(lamplighter: Run, folder: DataFolder) -> None:
    """Choosing a model needs its size, its memory and its licence."""
    answer = lamplighter("models", "catalogue", "--json")
    assert answer.exit == 0, answer.err
    assert len(answer.json["models"]) >= 12
    text = lamplighter("models", "catalogue").out
    assert all(entry["name"] in text and entry["licence"] in text for entry in answer.json["models"])
