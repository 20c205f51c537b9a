"""`lamplighter keys`: credentials for clients of the API, their rights and limits."""

import time
from typing import Annotated, Any

import typer

from lamplighter.cli.invocation import DataOption, Invocation, JsonOption, KeyOption, UrlOption, of, table
from lamplighter.cli.words import ago, ahead
from lamplighter.core.errors import LamplighterError
from lamplighter.core.units import Budget, Duration

keys = typer.Typer(help="Make, list, limit, rotate and revoke API keys.", no_args_is_help=True)

_Which = Annotated[str, typer.Argument(metavar="ID", help="The key's id, or its name when only one has it.")]
_Rpm = Annotated[str | None, typer.Option("--rpm", metavar="N", help="Requests a minute; `unlimited` lifts the default.")]
_Tpm = Annotated[str | None, typer.Option("--tpm", metavar="N", help="Tokens a minute, of prompts and answers.")]
_Parallel = Annotated[str | None, typer.Option("--parallel", metavar="N", help="Requests that may wait or run at the same time.")]
_Tokens = Annotated[
    list[str] | None,
    typer.Option("--tokens", metavar="N/PERIOD", help="Tokens a `day` or `month`, such as `1000000/month`. Repeatable."),
]
_Budget = Annotated[
    list[str] | None,
    typer.Option("--budget", metavar="MONEY/PERIOD", help="Money a `day` or `month`, such as `5 USD/month`. Repeatable."),
]
_Models = Annotated[str | None, typer.Option("--models", metavar="A,B", help="The models that it may use; `all` for all.")]
_Inference = Annotated[bool | None, typer.Option("--inference/--no-inference", help="Whether it may ask models.")]


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    app.add_typer(keys, name="keys")


@keys.command("create")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who or what will use it.")],
    admin: Annotated[bool, typer.Option("--admin", help="It may also change models and keys.")] = False,
    inference: _Inference = None,
    models: _Models = None,
    rpm: _Rpm = None,
    tpm: _Tpm = None,
    parallel: _Parallel = None,
    tokens: _Tokens = None,
    budget: _Budget = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="TIME", help="It opens nothing after this, such as `90d`.")
    ] = None,
    data: DataOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it, this once."""
    invocation = of(context)
    body: dict[str, Any] = {"name": name, "admin": admin, **_rights(inference, models)}
    if limits := _limits(rpm, tpm, parallel, tokens, budget):
        body["limits"] = limits
    if expires is not None and (seconds := _seconds(expires)) is not None:
        body["expires_in"] = seconds
    with invocation.client() as client:
        answer = client.post("/api/keys", body)
    invocation.note("Keep it: it is shown this once.")
    invocation.show(answer, answer["key"])


@keys.command("list")
def list_(
    context: typer.Context,
    revoked: Annotated[bool, typer.Option("--all", help="Revoked ones too.")] = False,
    data: DataOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the keys; never their secrets."""
    invocation = of(context)
    with invocation.client() as client:
        found = [item for item in client.get("/api/keys")["keys"] if revoked or item["revoked_at"] is None]
    rows = ((item["id"], item["name"], f"{item['prefix']}…", _may(item), _life(item), _described(item)) for item in found)
    invocation.show({"keys": found}, table(("id", "name", "begins with", "may", "last used", "limits"), rows))


def _may(item: dict[str, Any]) -> str:
    if not item.get("inference", True):
        return "admin only" if item["admin"] else "nothing"
    what = "admin" if item["admin"] else "inference"
    return what if item.get("models") is None else f"{what}: {', '.join(item['models'])}"


def _life(item: dict[str, Any]) -> str:
    now = time.time()
    if item["revoked_at"] is not None:
        return f"revoked {ago(now - item['revoked_at'])}"
    if item.get("disabled_at") is not None:
        return f"disabled {ago(now - item['disabled_at'])}"
    used = "never" if item["last_used_at"] is None else ago(now - item["last_used_at"])
    expires = item.get("expires_at")
    if expires is None:
        return used
    return f"expired {ago(now - expires)}" if expires <= now else f"{used}, expires in {ahead(expires - now)}"


_NAMES = {
    "requests_per_minute": "{} requests/min",
    "tokens_per_minute": "{} tokens/min",
    "parallel": "{} parallel",
    "tokens_per_day": "{} tokens/day",
    "tokens_per_month": "{} tokens/month",
    "budget_per_day": "{}/day",
    "budget_per_month": "{}/month",
}


def _described(item: dict[str, Any]) -> str:
    limits = item.get("limits") or {}
    parts = [_NAMES[name].format(value) for name, value in limits.items() if name in _NAMES]
    for model, special in (limits.get("models") or {}).items():
        parts.append(f"{model}: " + ", ".join(_NAMES[name].format(value) for name, value in special.items() if name in _NAMES))
    return "; ".join(parts) or "defaults"


@keys.command("limit")
def limit(
    context: typer.Context,
    which: _Which,
    rpm: _Rpm = None,
    tpm: _Tpm = None,
    parallel: _Parallel = None,
    tokens: _Tokens = None,
    budget: _Budget = None,
    model: Annotated[str | None, typer.Option("--model", metavar="MODEL", help="Only for requests to this model.")] = None,
    models: _Models = None,
    inference: _Inference = None,
    clear: Annotated[bool, typer.Option("--clear", help="Forget its own limits first: the defaults hold.")] = False,
    data: DataOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change what a key may; what is not named stays."""
    invocation = of(context)
    given = _limits(rpm, tpm, parallel, tokens, budget)
    change = _rights(inference, models)
    if not (given or change or clear):
        raise LamplighterError("nothing to change", next_step="Name a limit, such as --rpm 60 or --budget '5 USD/month'.")
    with invocation.client() as client:
        item = _find(client.get("/api/keys")["keys"], which)
        limits = {} if clear else dict(item.get("limits") or {})
        if model is None:
            limits |= given
        elif given:
            special = dict(limits.get("models") or {})
            special[model] = {**special.get(model, {}), **given}
            limits["models"] = special
        if given or clear:
            change["limits"] = limits or None
        answer = client.request("PATCH", f"/api/keys/{item['id']}", json=change)
    invocation.note(f"{item['name']!r}: {_described(answer)}.")
    if invocation.json:
        invocation.show(answer)


@keys.command("rotate")
def rotate(
    context: typer.Context,
    which: _Which,
    grace: Annotated[
        str, typer.Option("--grace", metavar="TIME", help="How long the old secret still opens; `0s`: no more.")
    ] = "1d",
    data: DataOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a key a new secret and print it, this once. Its name, rights, limits and chats stay."""
    invocation = of(context)
    seconds = _seconds(grace)
    if seconds is None:
        raise LamplighterError("the old secret must end some time", next_step="Give --grace a time, such as 1d.")
    with invocation.client() as client:
        item = _find(client.get("/api/keys")["keys"], which)
        answer = client.post(f"/api/keys/{item['id']}/rotate", {"grace": seconds})
    until = f"The old secret opens for {ahead(seconds)} more." if seconds else "The old secret opens no more."
    invocation.note(f"Keep it: it is shown this once. {until}")
    invocation.show(answer, answer["key"])


@keys.command("expire")
def expire(
    context: typer.Context,
    which: _Which,
    when: Annotated[str, typer.Argument(metavar="TIME", help="From now: `30d`, `12h`; or `never`.")],
    data: DataOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a key end by itself, or never."""
    seconds = _seconds(when)
    if seconds == 0:
        raise LamplighterError(
            "a key that shall open nothing now is disabled or revoked", next_step="`lamplighter keys disable ID`"
        )
    _change(of(context), which, {"expires_in": seconds}, "never expires" if seconds is None else f"expires in {ahead(seconds)}")


@keys.command("disable")
def disable(
    context: typer.Context,
    which: _Which,
    data: DataOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a key open nothing until it is enabled again."""
    _change(of(context), which, {"disabled": True}, "is disabled")


@keys.command("enable")
def enable(
    context: typer.Context,
    which: _Which,
    data: DataOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a disabled key open again."""
    _change(of(context), which, {"disabled": False}, "is enabled")


@keys.command("revoke")
def revoke(
    context: typer.Context,
    which: _Which,
    data: DataOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a key for good: requests and sessions with it end. Revoking twice is no error."""
    invocation = of(context)
    with invocation.client() as client:
        item = _find(client.get("/api/keys")["keys"], which)
        client.delete(f"/api/keys/{item['id']}")
    invocation.note(f"Revoked {item['name']!r}.")
    if invocation.json:
        invocation.show({"id": item["id"], "revoked": True})


def _change(invocation: Invocation, which: str, change: dict[str, Any], says: str) -> None:
    with invocation.client() as client:
        item = _find(client.get("/api/keys")["keys"], which)
        answer = client.request("PATCH", f"/api/keys/{item['id']}", json=change)
    invocation.note(f"{item['name']!r} {says}.")
    if invocation.json:
        invocation.show(answer)


def _find(found: list[dict[str, Any]], which: str) -> dict[str, Any]:
    matching = [item for item in found if item["id"] == which]
    matching = matching or [item for item in found if item["name"] == which and item["revoked_at"] is None]
    if len(matching) != 1:
        problem = "there is no key" if not matching else "more than one key is named"
        raise LamplighterError(f"{problem} {which!r}", next_step="`lamplighter keys list` shows the ids.")
    return matching[0]


def _rights(inference: bool | None, models: str | None) -> dict[str, Any]:
    change: dict[str, Any] = {} if inference is None else {"inference": inference}
    if models is not None:
        names = [name.strip() for name in models.split(",") if name.strip()]
        change["models"] = None if names in ([], ["all"]) else names
    return change


def _limits(
    rpm: str | None, tpm: str | None, parallel: str | None, tokens: list[str] | None, budget: list[str] | None
) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    for name, option, value in (
        ("requests_per_minute", "--rpm", rpm),
        ("tokens_per_minute", "--tpm", tpm),
        ("parallel", "--parallel", parallel),
    ):
        if value is not None:
            limits[name] = _count(option, value)
    for text in tokens or ():
        amount, period = _per("--tokens", text)
        limits[f"tokens_per_{period}"] = _count("--tokens", amount)
    for text in budget or ():
        amount, period = _per("--budget", text)
        if amount != "unlimited":
            try:
                amount = str(Budget.parse(text).limit)
            except ValueError as error:
                raise LamplighterError(f"--budget: {error}") from error
        limits[f"budget_per_{period}"] = amount
    return limits


def _per(option: str, text: str) -> tuple[str, str]:
    amount, _, period = (part.strip() for part in text.partition("/"))
    if period not in {"day", "month"}:
        raise LamplighterError(f"{option}: {text!r} names no day or month", next_step="Write it as AMOUNT/day or AMOUNT/month.")
    return amount, period


def _count(option: str, text: str) -> int | str:
    if text == "unlimited":
        return text
    number = text.replace("_", "").replace(",", "")
    if not number.isdecimal() or int(number) < 1:
        raise LamplighterError(f"{option}: {text!r} is not a whole number from 1, nor `unlimited`")
    return int(number)


def _seconds(text: str) -> float | None:
    """None: never."""
    if text in {"0", "now"}:
        return 0.0
    try:
        seconds = float(Duration.parse(text))
    except ValueError as error:
        raise LamplighterError(str(error)) from error
    return None if seconds == float("inf") else seconds
