"""What a person installs is a wheel: it must contain the built page and run on a machine that has no Node."""

import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest

from tests.journeys import harness
from tests.journeys.harness import Server, running

ROOT = Path(__file__).parents[3]
CONFIG = "models: {small: {engine: fake, pool: quick}}\npools: {quick: {kind: fake}}\n"


def test_the_wheel_serves_the_page_without_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever installs the package would see no page, or would need a JavaScript tool chain."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True, timeout=120)
    (wheel,) = tmp_path.glob("lamplighter-*.whl")
    unpacked = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(unpacked)
    assert "lamplighter/page/index.html" in names
    assert any(name.startswith("lamplighter/page/assets/") and name.endswith(".js") for name in names)
    assert any(name.startswith("lamplighter/store/migrations/versions/") for name in names)
    assert {"lamplighter/deploy/terraform/aws/main.tf", "lamplighter/deploy/terraform/aws/files/agent.py"} <= set(names)
    chart = {"Chart.yaml", "values.schema.json", "templates/gateway.yaml", "templates/_helpers.tpl"}
    assert {f"lamplighter/deploy/helm/lamplighter/{file}" for file in chart} <= set(names)
    assert {f"lamplighter/deploy/cluster/{part}.yaml" for part in ("monitoring", "liqo", "lamplighter")} <= set(names)
    assert {"lamplighter/providers/aws/prices.json", "lamplighter/providers/aws/standing.json"} <= set(names)

    program = tmp_path / "lamplighter"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(unpacked)!r})\n"
        "import lamplighter\nassert lamplighter.__file__.startswith(" + repr(str(unpacked)) + ")\n"
        "from lamplighter.cli.main import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    server = Server(tmp_path / "data", CONFIG)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(harness, "PROGRAM", program)
    with running(server) as lamplighter:
        page = httpx.get(lamplighter.url)
        assert page.status_code == 200
        assert '<div id="root">' in page.text
