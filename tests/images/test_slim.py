"""What makes the image small must not take away what Lamplighter needs."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.images.podman import IMAGES, ROOT

SOURCE = ROOT / "src" / "lamplighter"
CALL = re.compile(r"""(?:call|pages|ask|client|read)\(\s*"([a-z0-9-]+)",\s*"[a-z_]+""")


@pytest.fixture(scope="module")
def slim() -> ModuleType:
    spec = importlib.util.spec_from_file_location("slim", IMAGES / "slim.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_aws_service_that_is_called_is_kept(slim: ModuleType) -> None:
    """In the image, and only there, a cloud pool would end in UnknownServiceError."""
    called = {service for file in SOURCE.rglob("*.py") for service in CALL.findall(file.read_text(encoding="utf-8"))}
    assert {"ec2", "autoscaling", "sqs", "s3", "ssm"} <= called, "the pattern finds no calls any more"
    assert called <= slim.AWS_SERVICES


def test_kept_services_exist(slim: ModuleType) -> None:
    """A name with a slip keeps nothing."""
    import botocore

    known = {path.name for path in (Path(botocore.__file__).parent / "data").iterdir()}
    assert slim.AWS_SERVICES - known == set()


def test_a_package_runs_without_its_sources(slim: ModuleType, tmp_path: Path) -> None:
    """What is compiled and then removed must still be importable, ours must keep its text, and pip must not be touched."""
    site = tmp_path / "site-packages"
    for name in ("other", "lamplighter", "pip"):
        package = site / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "module.py").write_text("def fail():\n    raise RuntimeError('seen')\n")
    (site / "other" / "fast.pyx").write_text("")
    slim.drop_unused(site)
    slim.compile_all(site)
    assert sorted(path.name for path in (site / "other").rglob("*.py*")) == ["__init__.pyc", "module.pyc"]
    assert (site / "lamplighter" / "module.py").exists()
    assert list((site / "lamplighter" / "__pycache__").glob("module.*.pyc"))
    assert sorted(path.name for path in (site / "pip").rglob("*")) == ["__init__.py", "module.py"]
    done = subprocess.run(
        [sys.executable, "-c", "import other.module; other.module.fail()"],
        cwd=site,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert "RuntimeError: seen" in done.stderr
    assert "other/module.py" in done.stderr, "a traceback names the file and line all the same"
