"""How Terraform is driven: found, asked, interrupted, and believed when it fails. The program is a pretended one; the journey uses the real."""

import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamplighter.operations.cloud.engine import Driver, Engine
from lamplighter.operations.cloud.errors import CloudError, EngineFailed, NoEngine, StackBusy
from lamplighter.operations.cloud.workspace import Workspace, root_module
from tests.unit.operations.cloud.conftest import FakeTerraform


@pytest.fixture
def space(tmp_path: Path, module: Path) -> Workspace:
    made = Workspace.of(tmp_path / "data", "lamplighter", "eu-central-1")
    with made.locked():
        made.prepare({"stack": "lamplighter", "region": "eu-central-1", "text": "${not a template}"}, module=module)
    return made


def driver(space: Workspace, said: list[str]) -> Driver:
    return Driver(Engine.find(None), space, said.append)


def test_without_terraform_a_person_learns_where_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thing that goes wrong for a newcomer."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoEngine, match="terraform and tofu are not installed") as refused:
        Engine.find(None)
    assert "opentofu.org" in refused.value.next_step
    with pytest.raises(NoEngine, match="tofu is not installed"):
        Engine.find("tofu")


def test_an_old_one_is_refused(terraform: FakeTerraform) -> None:
    """1.5 would fail in the middle of the module, with words of its own."""
    terraform.script(version="1.5.7")
    with pytest.raises(NoEngine, match=r"1\.6 or newer"):
        Engine.find(None)


def test_opentofu_is_taken_where_terraform_is_not(terraform: FakeTerraform) -> None:
    """Both are fine; the file can choose."""
    terraform.path.rename(terraform.folder / "tofu")
    assert Engine.find(None).name == "tofu"


def test_it_is_asked_without_prompts_and_in_its_own_folder(
    terraform: FakeTerraform, space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt would hang a cron job, and a person's own TF_DATA_DIR would mix two states."""
    monkeypatch.setenv("TF_WORKSPACE", "other")
    monkeypatch.setenv("TF_DATA_DIR", "/elsewhere")
    monkeypatch.setenv("AWS_PROFILE", "home")
    terraform.script(plan={"resource_changes": []})
    said: list[str] = []
    driving = driver(space, said)
    driving.init()
    assert driving.plan() == {"resource_changes": []}
    driving.apply()
    assert [call[0] for call in terraform.asked] == ["init", "plan", "show", "apply"]
    assert all("-input=false" in call for call in terraform.asked if call[0] in ("init", "plan", "apply"))
    environment = terraform.environment
    assert (environment["TF_WORKSPACE"], environment["TF_DATA_DIR"], environment["AWS_PROFILE"]) == (None, None, "home")
    assert environment["CHECKPOINT_DISABLE"] == "1"
    assert not space.plan.exists(), "a saved plan may hold secrets"


def test_a_failure_keeps_its_words_and_names_a_next_step(terraform: FakeTerraform, space: Workspace) -> None:
    """`exit status 1` alone helps nobody."""
    terraform.script(fail={"apply": "\x1b[31m│ Error: creating EC2 VPC: UnauthorizedOperation: not you\x1b[0m"})
    said: list[str] = []
    driving = driver(space, said)
    driving.plan()
    with pytest.raises(EngineFailed, match="apply failed: creating EC2 VPC: UnauthorizedOperation") as failed:
        driving.apply()
    assert failed.value.status == 1
    assert "aws-account.md" in failed.value.next_step
    log = Path(failed.value.log)
    assert "UnauthorizedOperation" in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A run in a shell's background inherits that SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_reaches_terraform_once_and_its_state_is_kept(terraform: FakeTerraform, space: Workspace) -> None:
    """A Terraform that is killed forgets what it has just made, and that then bills for ever."""
    terraform.script(hang=True)
    said: list[str] = []
    driving = driver(space, said)
    driving.plan()

    def interrupt() -> None:
        while "applying" not in said:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)  # an impatient person

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        driving.apply()
    thread.join()
    assert (terraform.folder / "interrupts").read_text() == "1"
    assert space.state.exists()
    assert any("is ending; wait" in line for line in said)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_dated_copy_of_the_state_is_made_before_each_change(terraform: FakeTerraform, space: Workspace) -> None:
    """A state that is lost means resources that nobody takes down."""
    driving = driver(space, [])
    for _ in range(13):
        driving.plan()
        driving.apply()
    copies = sorted((space.root / "backups").iterdir())
    assert len(copies) == 10
    assert all(stat.S_IMODE(copy.stat().st_mode) == 0o600 for copy in copies)
    assert space.built


def test_the_folder_is_private_and_the_module_whole(space: Workspace) -> None:
    """The state names everything in the account; a link in the checkout leads nowhere on another machine."""
    assert stat.S_IMODE(space.root.stat().st_mode) == 0o700
    agent = space.root / "module" / "files" / "agent.py"
    assert agent.read_text() == "# the agent"
    assert not agent.is_symlink()


def test_values_never_stand_where_they_would_be_templates(space: Workspace) -> None:
    """`${` in a value would be evaluated by Terraform, or fail."""
    assert "not a template" not in (space.root / "main.tf.json").read_text()
    assert space.last_variables()["text"] == "${not a template}"
    module = root_module({"stack": "x"})["module"]["stack"]
    assert module == {"source": "./module", "stack": "${var.stack}"}


def test_an_override_file_of_the_person_stays(space: Workspace, module: Path) -> None:
    """It holds their backend; without it Terraform would begin anew and build everything twice."""
    override = space.root / "backend_override.tf"
    override.write_text("terraform {}")
    space.prepare({"stack": "lamplighter"}, module=module)
    assert override.read_text() == "terraform {}"


def test_two_commands_do_not_work_on_one_stack(space: Workspace) -> None:
    """Two Terraforms on one state destroy each other's work."""
    with space.locked(), pytest.raises(StackBusy, match=f"process {os.getpid()}"), space.locked():
        pass
    with space.locked():
        pass


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    """Not a traceback."""
    (tmp_path / "cloud").write_text("a file")
    with pytest.raises(CloudError, match="cannot be used"), Workspace.of(tmp_path, "a", "b").locked():
        pass
