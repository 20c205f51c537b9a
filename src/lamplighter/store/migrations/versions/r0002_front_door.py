"""What the gateway learnt to keep: limits and scopes of keys, accounts of requests, and what several gateways must agree upon."""

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """From the first schema."""
