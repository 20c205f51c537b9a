"""Brings one revision of one model of the hub: `python fetch.py OWNER/REPO REVISION FOLDER`, in the hub's own cache layout.

The revision must be a commit, because an image whose content follows a branch is not what its label says. The token, where there is one, is
the build secret `hub_token`. Runs in the build of deploy/images/baked.
"""

import re
import sys
from pathlib import Path

SECRET = Path("/run/secrets/hub_token")
WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken", "LICENSE*", "README.md"]
"""No weights in a second format: `.bin`, `.pth` and `.gguf` lie beside the safetensors in many repositories."""


def main() -> int:
    """Fetch it. Exit 1 with the reason when that is impossible."""
    model, revision, folder = sys.argv[1:]
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        return _failed(f"MODEL_REVISION must be a commit of 40 hex digits, not {revision!r}: a branch would move")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    token = SECRET.read_text(encoding="utf-8").strip() if SECRET.exists() else None
    try:
        path = Path(snapshot_download(model, revision=revision, cache_dir=folder, allow_patterns=WANTED, token=token or False))
    except (HfHubHTTPError, OSError) as error:
        return _failed(f"{model} at {revision}: {error}")
    if not any(path.glob("*.safetensors")):
        return _failed(f"{model} has no safetensors at {revision}; this recipe bakes no other format")
    # Who asks for the branch shall find this revision, without a network to ask.
    refs = path.parent.parent / "refs"
    refs.mkdir(exist_ok=True)
    (refs / "main").write_text(revision, encoding="utf-8")
    weight = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    sys.stdout.write(f"fetch: {model} at {revision}: {weight / 1e9:.2f} GB\n")
    return 0


def _failed(why: str) -> int:
    sys.stderr.write(f"fetch: {why}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
