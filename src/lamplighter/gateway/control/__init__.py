"""The control API under `/api`, for the page and the command line: FastAPI, away from the data path.

`docs/reference/control-api.md` is its contract. Listing, watching and reading make no demand.
"""

from lamplighter.gateway.control.app import Control, build_control

__all__ = ["Control", "build_control"]
