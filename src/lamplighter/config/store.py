"""Where what must be remembered is kept: SQLite in the data folder, or PostgreSQL for several processes and hosts."""

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from lamplighter.config.section import Section
from lamplighter.config.types import Span
from lamplighter.core.units import Duration

_Secret = Annotated[str, StringConstraints(pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$")]


class StoreConfig(Section):
    """The database."""

    url: _Secret | None = Field(
        None,
        description="Reference to a PostgreSQL URL, as `env:DATABASE_URL`; TLS and several hosts are said in the URL as libpq does "
        "(`?sslmode=verify-full`). Default: SQLite in the data folder, which serves one process.",
    )
    listen_url: _Secret | None = Field(
        None,
        description="Reference to a URL that reaches PostgreSQL directly, for notifications, when `url` goes through a pooler such as PgBouncer "
        "in transaction mode; prepared statements are then not kept.",
    )
    pool_size: int = Field(
        5,
        ge=1,
        le=200,
        description="Connections to PostgreSQL that one process keeps; as many again in a rush, and one for notifications.",
    )
    connect_timeout: Span = Field(
        Duration(5), description="Limit for connecting to PostgreSQL, and for getting a connection from the pool."
    )
    statement_timeout: Span = Field(
        Duration(10), description="Limit for one statement, waiting for locks included; PostgreSQL ends it then."
    )

    @model_validator(mode="after")
    def _direct(self) -> Self:
        if self.listen_url is not None and self.url is None:
            raise ValueError("store.listen_url is of use only together with store.url")
        return self
