"""Build hook: a wheel or sdist without the page is refused, because it would serve nothing.

Not responsible for building the page: `make setup` does that (tools/build_page.py). The
editable install of a checkout is let through, since the page is built right after it.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class RequirePage(BuildHookInterface[Any]):
    """Stops `python -m build` with the next step when the built page is absent."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Raise RuntimeError unless ``src/lamplighter/page/index.html`` exists."""
        del build_data
        if version == "editable":
            return
        page = Path(self.root) / "src" / "lamplighter" / "page" / "index.html"
        if not page.is_file():
            message = f"{page} is missing: run `make setup` first, so that the package has its page"
            raise RuntimeError(message)
