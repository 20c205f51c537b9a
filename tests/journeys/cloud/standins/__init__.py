"""Everything that a journey's cloud machine does not really do, in one place. All else on it is real: bootstrap, agent, mesh, signatures, HTTP.

| program | instead of | does |
|---|---|---|
| `docker` | Docker with a GPU | "pulls" in a moment, runs the pretended vLLM (`lamplighter.testing.vllm`) on the address that was to be published |
| `nvidia-smi` | NVIDIA's driver | names one GPU |
| `iptables` | the packet filter | nothing |
| `shutdown` | the end of the machine | tells the emulated EC2, which ends it |
| `nebula`, `nebula-cert` | the mesh; only where a test has none | runs, and does nothing |

How they behave is in the folder `state`: a file `fail` holds what the pull says when it fails; `flags` holds further flags of the engine.
"""

import stat
import sys
from pathlib import Path

_HERE = Path(__file__).parent
SHELL = "#!/bin/sh\n"


def install(folder: Path, state: Path, *, shut_down: str, mesh: bool, seen: str | None = None) -> None:
    """Write the programs into `folder`. `shut_down`: a shell command that ends the machine. `mesh`: False also replaces Nebula.

    `seen`: where `state` is on the machine itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state.mkdir(parents=True, exist_ok=True)
    stand_in = f"STANDIN_STATE={seen or state} STANDIN_PYTHON={sys.executable} exec /usr/bin/env python3 -I {_HERE / 'docker.py'}"
    programs = {
        "docker": f'{SHELL}{stand_in} "$@"\n',
        "nvidia-smi": f"{SHELL}echo 'GPU 0: NVIDIA T4 (a stand-in)'\n",
        "iptables": f"{SHELL}exit 0\n",
        "shutdown": f"{SHELL}{shut_down}\n",
    }
    if not mesh:
        programs |= {
            "nebula": f"{SHELL}exec sleep 600\n",
            "nebula-cert": f'{SHELL}echo \'{{"fingerprint": "{"0" * 64}"}}\'\n',
        }
    for name, text in programs.items():
        path = folder / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def engines(state: Path) -> list[int]:
    """The processes of the engines that the stand-in for Docker started."""
    return [int(file.read_text()) for file in state.glob("*.pid")]
