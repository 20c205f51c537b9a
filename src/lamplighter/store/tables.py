"""The tables, in SQL that SQLite and PostgreSQL both speak. Queries live beside this module, one file per subject.

Times are Unix seconds as floats. Structured columns are JSON text. History tables are append-only.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    true,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

meta = Table("meta", metadata, Column("name", String(64), primary_key=True), Column("value", Text, nullable=False))

leases = Table(
    "leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("term", Integer, nullable=False),
    Column("expires_at", Float, nullable=False),
)

principals = Table(
    "principals",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", Text, nullable=False),
    Column("created_at", Float, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("principal_id", String(32), ForeignKey("principals.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("digest", String(64), nullable=False, unique=True),  # SHA-256 of a key with 256 random bits: no slow hash needed
    Column("prefix", String(16), nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("last_used_at", Float),
    Column("revoked_at", Float),
    Column("inference", Boolean, nullable=False, server_default=true()),  # whether it may ask models at all
    Column("models", JSON(none_as_null=True)),  # the models that it may use; null: all
    Column("limits", JSON(none_as_null=True)),  # as `config.admission.KeyLimits` writes them; null: the defaults
    Column("expires_at", Float),
    Column("disabled_at", Float),
    Column("previous_digest", String(64)),  # of the secret before the last rotation, which opens until `previous_until`
    Column("previous_until", Float),
)

spend = Table(  # what limits by the day and the month are counted from; sums, written in batches
    "spend",
    metadata,
    Column("day", String(10), primary_key=True),  # UTC, 2026-11-22
    Column("key_id", String(32), primary_key=True),  # a key's id, or a principal's for a session that no key opened
    Column("model", String(128), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("money", BigInteger, nullable=False),  # billionths of the installation's currency
)

sessions = Table(
    "sessions",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("principal_id", String(32), ForeignKey("principals.id"), nullable=False),
    Column("key_id", String(32), ForeignKey("keys.id")),  # a session ends with the key that opened it
    Column("admin", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
)

login_tokens = Table(
    "login_tokens",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("principal_id", String(32), ForeignKey("principals.id"), nullable=False),
    Column("key_id", String(32), ForeignKey("keys.id")),
    Column("admin", Boolean, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("used_at", Float),
)

models = Table(  # the overlay: models added at run time; the file wins
    "models",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("definition", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
)

gateways = Table(
    "gateways",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("started_at", Float, nullable=False),
    Column("heartbeat_at", Float, nullable=False),
)

demand = Table(
    "demand",
    metadata,
    Column("gateway_id", String(32), primary_key=True),
    Column("model", String(128), primary_key=True),
    Column("queued", Integer, nullable=False),
    Column("in_flight", Integer, nullable=False),
    Column("oldest_queued_at", Float),
    Column("last_ended_at", Float),  # end of the last generation: idle time counts from here
    Column("wanted_until", Float),  # asked for without a request that waits (`local` answered it meanwhile)
    Column("loads", JSON, nullable=False),  # in flight by replica id, for people
    Column("heartbeat_at", Float, nullable=False),
)

orders = Table(  # what people asked for: wake, keep warm, sleep
    "orders",
    metadata,
    Column("model", String(128), primary_key=True),
    Column("wanted_until", Float),
    Column("sleep_asked_at", Float),
)

replicas = Table(
    "replicas",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("pool", String(64), nullable=False),
    Column("handle", String(128)),  # the provider's id; null until the provider shows it
    Column("models", JSON, nullable=False),  # the models it holds or loads
    Column("state", String(16), nullable=False),
    Column("since", Float, nullable=False),
    Column("reason", String(32)),
    Column("detail", Text),
    Column("stage", String(32)),
    Column("endpoint_url", Text),
    Column("endpoint_key", Text),
    Column("endpoint_ca", Text),
    Column("context", Integer),
    Column("capabilities", JSON),  # what its engine told that its one model can be asked for; null when it does not tell
    Column("epoch", Integer, nullable=False),  # counts state changes: an acknowledgement names the one it means
    Column("created_at", Float, nullable=False),
    Column("ready_at", Float),
    Column("wake_id", String(32)),
    Index("ix_replicas_state", "state"),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("replica_id", String(32), nullable=False, index=True),
    Column("pool", String(64), nullable=False),
    Column("from_state", String(16)),
    Column("to_state", String(16), nullable=False),
    Column("reason", String(32)),
    Column("detail", Text),
    Column("term", Integer, nullable=False),
)

drain_acks = Table(
    "drain_acks",
    metadata,
    Column("replica_id", String(32), primary_key=True),
    Column("gateway_id", String(32), primary_key=True),
    Column("epoch", Integer, nullable=False),
)

wakes = Table(
    "wakes",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("pool", String(64), nullable=False),
    Column("model", String(128), nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("outcome", String(16)),  # null while under way, then ready, failed or cancelled
    Column("reason", String(32)),
    Column("detail", Text),
    Column("attempt", Integer, nullable=False),  # 1 for the first, counted over failures in a row
    Column("retry_at", Float),
    Column("stages", JSON, nullable=False),
    Column("warm", Boolean, nullable=False),  # the weights were already here: no pull
    Column("eta_p50", Float),
    Column("eta_p90", Float),
    Index("ix_wakes_model_pool_started_at", "model", "pool", "started_at"),
)

ledger = Table(  # what capacity cost: one row for each replica, or for each price that it had
    "ledger",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("pool", String(64), nullable=False),
    Column("model", String(128), nullable=False),
    Column("replica_id", String(32), nullable=False),
    Column("handle", String(128), nullable=False),
    Column("basis", Text, nullable=False),  # for people: spot g4dn.xlarge, eu-central-1a
    Column("hourly", BigInteger, nullable=False),  # billionths of the installation's currency
    Column("currency", String(3), nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),  # null while it costs
    Index("ix_ledger_pool_ended_at", "pool", "ended_at"),
)

pool_costs = Table(  # what the keeper knows of each pool's money: the next wake's price, and what the budget's period has cost
    "pool_costs",
    metadata,
    Column("pool", String(64), primary_key=True),
    Column("currency", String(3), nullable=False),
    Column("hourly", BigInteger),  # of the next wake; null: not known
    Column("least", BigInteger),
    Column("basis", Text),
    Column("source", Text),
    Column("quoted_at", Float),
    Column("spent", BigInteger, nullable=False),
    Column("since", Float, nullable=False),  # when the period began: the budget's, or else the calendar month (UTC)
)

chats = Table(
    "chats",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("principal_id", String(32), ForeignKey("principals.id"), nullable=False),
    Column("title", Text, nullable=False),
    Column("model", String(128)),
    Column("system", Text),
    Column("leaf_id", String(32)),  # last message of the branch shown
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Index("ix_chats_principal_id_updated_at", "principal_id", "updated_at"),
)

messages = Table(
    "messages",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("chat_id", String(32), ForeignKey("chats.id", ondelete="CASCADE"), nullable=False),
    Column("parent_id", String(32), ForeignKey("messages.id", ondelete="CASCADE")),
    Column("role", String(16), nullable=False),
    Column("content", Text, nullable=False),
    Column("model", String(128)),
    Column("status", String(16), nullable=False),
    Column("error", JSON),
    Column("usage", JSON),
    Column("created_at", Float, nullable=False),
    Index("ix_messages_chat_id_parent_id", "chat_id", "parent_id"),
)

generations = Table(
    "generations",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("principal_id", String(32), ForeignKey("principals.id"), nullable=False),
    Column("client_request_id", String(128), nullable=False),
    Column("chat_id", String(32), ForeignKey("chats.id", ondelete="CASCADE"), nullable=False),
    Column("message_id", String(32), ForeignKey("messages.id", ondelete="CASCADE"), nullable=False),
    Column("gateway_id", String(32), nullable=False),
    Column("model", String(128), nullable=False),
    Column("params", JSON, nullable=False),
    Column("status", String(16), nullable=False),  # running, done, cancelled, interrupted, error
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("cancel_asked_at", Float),  # by another gateway than the one that writes
    UniqueConstraint("principal_id", "client_request_id"),
    Index("ix_generations_status", "status"),
)

generation_events = Table(
    "generation_events",
    metadata,
    Column("generation_id", String(32), ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("data", JSON, nullable=False),
)

usage = Table(
    "usage",  # one row for each request that was sent to an engine or turned away
    metadata,
    Column("id", String(48), primary_key=True),  # made by the gateway, so that a batch written twice counts once
    Column("at", Float, nullable=False),  # when it ended
    Column("request_id", String(128), nullable=False),
    Column("gateway_id", String(32), nullable=False),
    Column("key_id", String(32), nullable=False),  # '' for none; no foreign key: accounts outlive what they are about
    Column("principal_id", String(32), nullable=False),
    Column("route", String(32), nullable=False),
    Column("model", String(128), nullable=False),  # the one that answered
    Column("asked", String(128)),  # the one that was asked for, when another one answered
    Column("replica_id", String(32)),
    Column("status", Integer, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("estimated", Boolean, nullable=False),  # the engine did not tell the tokens
    Column("seconds", Float, nullable=False),
    Column("ttft", Float),
    Column("itl", Float),
    Column("queue_seconds", Float, nullable=False),
    Column("wake_seconds", Float, nullable=False),
    Column("engine_seconds", Float, nullable=False),
    Column("retries", Integer, nullable=False),
    Column("cost_micros", BigInteger),  # millionths of the installation's currency; null: no price is known
    Index("ix_usage_at", "at"),
)

usage_days = Table(
    "usage_days",  # the same, summed by day: kept when the rows are forgotten
    metadata,
    Column("day", String(10), primary_key=True),  # YYYY-MM-DD, UTC
    Column("key_id", String(32), primary_key=True),
    Column("principal_id", String(32), primary_key=True),
    Column("model", String(128), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("estimated", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("engine_seconds", Float, nullable=False),
    Column("queue_seconds", Float, nullable=False),
    Column("wake_seconds", Float, nullable=False),
    Column("cost_micros", BigInteger, nullable=False),
)

rollouts = Table(  # changes of what serves a name
    "rollouts",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("stable", String(128), nullable=False),  # the target that served the name before
    Column("candidate", String(128), nullable=False),
    Column("revision", String(128)),  # of the candidate, when it is the stable model at another revision
    Column("settings", JSON, nullable=False),  # as `store.rollouts.Settings` writes them
    Column("basis", JSON, nullable=False),  # what the configuration file said of the model when it began
    Column("phase", String(16), nullable=False),
    Column("step", Integer, nullable=False),  # -1 before the first
    Column("since", Float, nullable=False),  # of the phase, or of the step
    Column("resumes", String(16)),  # while paused: the phase before
    Column("reason", String(32)),
    Column("detail", Text),
    Column("asked", String(16)),  # a person's order that the keeper has not followed yet
    Column("created_at", Float, nullable=False),
    Column("ended_at", Float),
    Index("ix_rollouts_name_created_at", "name", "created_at"),
    Index("ix_rollouts_ended_at", "ended_at"),
)

rollout_events = Table(
    "rollout_events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("rollout_id", String(32), nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("from_phase", String(16)),
    Column("to_phase", String(16), nullable=False),
    Column("weight", Integer, nullable=False),  # of the candidate, in hundredths of a percent
    Column("reason", String(32)),
    Column("detail", Text),
    Column("term", Integer),  # the keeper's; null for a person's
)

rollout_outcomes = Table(  # what gateways saw of both targets, step by step; sums, written in batches
    "rollout_outcomes",
    metadata,
    Column("rollout_id", String(32), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("side", String(16), primary_key=True),  # stable or candidate
    Column("requests", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
)

rollout_first_tokens = Table(  # the same for times to the first token, by bucket
    "rollout_first_tokens",
    metadata,
    Column("rollout_id", String(32), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("side", String(16), primary_key=True),
    Column("bucket", Integer, primary_key=True),
    Column("times", BigInteger, nullable=False),
)

switches = Table(  # the changes in force: what serves a name in place of the model of that name
    "switches",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("target", String(128), nullable=False),
    Column("revision", String(128)),
    Column("rollout_id", String(32), nullable=False),
    Column("basis", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
)
