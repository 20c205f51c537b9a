"""Drives Terraform or OpenTofu in a working folder: finds it, runs it, shows and keeps what it says, and lets it end in peace when interrupted.

A Terraform that is killed in the middle forgets what it has just made. So an interrupt (or SIGTERM) reaches it once, as an interrupt, and we
wait until it has written its state; a second one is not passed on. Not responsible for what a plan means (`changes`).
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from lamplighter.operations.cloud.errors import EngineFailed, NoEngine
from lamplighter.operations.cloud.workspace import Workspace

OLDEST = (1, 6)
_INSTALL = (
    "Install Terraform (https://developer.hashicorp.com/terraform/install) or OpenTofu (https://opentofu.org/docs/intro/install), "
    "version 1.6 or newer; `cloud.engine` chooses between the two."
)
_LAST_LINES = 12
_CHANGES_FOLLOW = 2
"""Exit status of `plan -detailed-exitcode` when the plan is not empty."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Engine:
    """The program that builds."""

    program: str
    name: str
    version: str

    @classmethod
    def find(cls, wanted: str | None) -> "Engine":
        """`wanted` (`terraform`, `tofu`), else Terraform, else OpenTofu. Raises NoEngine."""
        names = (wanted,) if wanted is not None else ("terraform", "tofu")
        for name in names:
            if (program := shutil.which(name)) is not None:
                return cls._checked(program, name)
        raise NoEngine(f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not installed", next_step=_INSTALL)

    @classmethod
    def _checked(cls, program: str, name: str) -> "Engine":
        try:
            said = subprocess.run(
                [program, "version", "-json"], capture_output=True, text=True, timeout=60, check=False, env=_environment(None)
            )
            version = str(json.loads(said.stdout)["terraform_version"])  # OpenTofu uses the same word
        except (OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired) as error:
            raise NoEngine(f"{program} does not say its version", next_step=_INSTALL) from error
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if numbers < OLDEST:
            raise NoEngine(f"{program} is version {version}; 1.6 or newer is needed", next_step=_INSTALL)
        return cls(program, name, version)


class Driver:
    """One stack's Terraform. `show` takes each line that it writes, as it comes; no line of it holds a secret (outputs are not printed)."""

    def __init__(self, engine: Engine, workspace: Workspace, show: Callable[[str], None]) -> None:
        self._engine = engine
        self._space = workspace
        self._show = show

    def init(self) -> None:
        """Fetch the provider and link the module. Raises EngineFailed, KeyboardInterrupt."""
        self._show(f"Preparing {self._engine.name} {self._engine.version}; the first time it fetches the AWS provider.")
        self._run("init", "init", "-input=false", "-no-color", quiet=True)

    def plan(self, *, destroy: bool = False) -> dict[str, Any]:
        """Make a plan, save it for `apply`, and return it as `show -json` tells it. Raises EngineFailed, KeyboardInterrupt."""
        extra = ("-destroy",) if destroy else ()
        self._show("Asking AWS what is there.")
        self._run(
            "plan", "plan", "-input=false", "-no-color", "-detailed-exitcode", f"-out={self._space.plan.name}", *extra,
            fine=(0, _CHANGES_FOLLOW), quiet=True,
        )  # fmt: skip
        return self._json("show", "-json", "-no-color", self._space.plan.name)

    def apply(self) -> None:
        """Do what the saved plan says. A copy of the state is kept first. Raises EngineFailed, KeyboardInterrupt."""
        self._space.back_up()
        try:
            self._run("apply", "apply", "-input=false", "-no-color", self._space.plan.name)
        finally:
            self.forget_plan()

    def forget_plan(self) -> None:
        """Delete the saved plan."""
        self._space.plan.unlink(missing_ok=True)

    def current(self) -> dict[str, Any]:
        """What the state says exists. Raises EngineFailed."""
        return self._json("show", "-json", "-no-color")

    def release(self, addresses: Sequence[str]) -> None:
        """Let resources live on without Terraform: they are no longer in the state. Raises EngineFailed, KeyboardInterrupt."""
        self._space.back_up()
        self._run("release", "state", "rm", *addresses)

    def _json(self, *arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            [self._engine.program, *arguments],
            cwd=self._space.root, capture_output=True, text=True, check=False, env=_environment(self._space), umask=0o077,
        )  # fmt: skip
        if done.returncode != 0:
            log = self._space.log(arguments[0])
            log.write_text(done.stderr, encoding="utf-8")
            raise self._failed(arguments[0], done.returncode, done.stderr.splitlines(), log)
        found = json.loads(done.stdout)
        return found if isinstance(found, dict) else {}

    def _run(self, what: str, *arguments: str, fine: Sequence[int] = (0,), quiet: bool = False) -> int:
        log = self._space.log(what)
        lines: list[str] = []
        with log.open("w", encoding="utf-8") as kept:
            log.chmod(0o600)
            process = subprocess.Popen(
                [self._engine.program, *arguments],
                cwd=self._space.root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env=_environment(self._space), umask=0o077,
                start_new_session=True,  # the terminal's Ctrl-C would reach it a second time, beside ours
                text=True, encoding="utf-8", errors="replace",
            )  # fmt: skip
            with _passing_on(process, self._show, self._engine.name) as interrupted:
                assert process.stdout is not None  # noqa: S101 - asked for above
                for raw in process.stdout:
                    line = _ESCAPES.sub("", raw.rstrip("\n"))
                    kept.write(line + "\n")
                    lines.append(line)
                    if not quiet:
                        self._show(line)
                status = process.wait()
        if interrupted.is_set():
            self._show(
                f"{self._engine.name} has ended (status {status}) and kept its state; the same command goes on from there."
            )
            raise KeyboardInterrupt
        if status not in fine:
            raise self._failed(what, status, lines, log)
        return status

    def _failed(self, what: str, status: int, lines: Sequence[str], log: Path) -> EngineFailed:
        said = [line.strip("│╷╵ ") for line in lines]
        errors = [line.removeprefix("Error: ") for line in said if line.startswith("Error: ")]
        why = "; ".join(errors) or next((line for line in reversed(said) if line), f"exit status {status}")
        self._show("\n".join(lines[-_LAST_LINES:]))
        return EngineFailed(
            f"{self._engine.name} {what} failed: {why}", status=status, log=str(log), next_step=_next_step("\n".join(lines), log)
        )


def _next_step(said: str, log: Path) -> str:
    text = said.lower()
    if any(
        sign in text
        for sign in ("no valid credential", "no ec2 imds role", "expiredtoken", "invalidclienttokenid", "sso session")
    ):
        return "Sign in to AWS first: `aws sso login` or `aws configure`, and AWS_PROFILE if you have several; then run it again."
    if any(sign in text for sign in ("accessdenied", "unauthorizedoperation", "is not authorized")):
        return "Your AWS user may not do that; docs/guides/aws-account.md lists what is needed. Run it again afterwards."
    if any(
        sign in text
        for sign in ("failed to query available provider", "could not connect to registry", "failed to install provider")
    ):
        return "The AWS provider cannot be fetched: check the network, or name a mirror in TF_CLI_CONFIG_FILE."
    if "state lock" in text:
        return "Another Terraform works on this state; wait for it."
    return f"All it said is in {log}. Running the command again is safe: what is there already stays."


def _environment(space: Workspace | None) -> dict[str, str]:
    """The person's own environment (credentials, endpoints, mirrors), without what would change where or how Terraform works."""
    mine = dict(os.environ)  # noqa: TID251 - passed on, not read
    for name in ("TF_WORKSPACE", "TF_DATA_DIR", "TF_CLI_ARGS", "TF_CLI_ARGS_plan", "TF_CLI_ARGS_apply", "TF_CLI_ARGS_init"):
        mine.pop(name, None)
    mine |= {"CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1", "TF_INPUT": "0"}
    if space is not None and "TF_PLUGIN_CACHE_DIR" not in mine:
        # The provider is some 700 MB: all stacks share one copy.
        shared = space.root.parents[1] / "plugins"
        shared.mkdir(parents=True, exist_ok=True, mode=0o700)
        mine["TF_PLUGIN_CACHE_DIR"] = str(shared)
    return mine


@contextlib.contextmanager
def _passing_on(process: "subprocess.Popen[str]", show: Callable[[str], None], name: str) -> Iterator[threading.Event]:
    """Interrupts of ours reach the child once; the event says whether there was one."""
    interrupted = threading.Event()

    def pass_on(_: int, __: FrameType | None) -> None:
        if interrupted.is_set():
            show(f"{name} is ending; wait, or what it has just made is forgotten.")
            return
        interrupted.set()
        show(f"Interrupted: {name} finishes what it has begun.")
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)

    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, pass_on) for number in _SIGNALS} if here else {}
    try:
        yield interrupted
    except BaseException:  # our own output broke: still never leave it half done
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        process.communicate()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
