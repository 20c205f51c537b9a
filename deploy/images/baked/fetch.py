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
        print(f"fetch: MODEL_REVISION must be a commit of 40 hex digits, not {revision!r}: a branch would move", file=sys.stderr)
        return 1
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    token = SECRET.read_text(encoding="utf-8").strip() if SECRET.exists() else None
    try:
        path = Path(snapshot_download(model, revision=revision, cache_dir=folder, allow_patterns=WANTED, token=token or False))
    except (HfHubHTTPError, OSError) as error:
        print(f"fetch: {model} at {revision}: {error}", file=sys.stderr)
        return 1
    if not any(path.glob("*.safetensors")):
        print(f"fetch: {model} has no safetensors at {revision}; this recipe bakes no other format", file=sys.stderr)
        return 1
    # Who asks for the branch shall find this revision, without a network to ask.
    refs = path.parent.parent / "refs"
    refs.mkdir(exist_ok=True)
    (refs / "main").write_text(revision, encoding="utf-8")
    print(f"fetch: {model} at {revision}: {sum(file.stat().st_size for file in path.iterdir() if file.is_file()) / 1e9:.2f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
