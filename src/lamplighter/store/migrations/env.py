"""Alembic's entry: runs the migrations on the connection that `store.migrate` hands over, in its transaction."""

from alembic import context

from lamplighter.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=False,
    transactional_ddl=False,  # the caller's transaction is around everything
    render_as_batch=True,
)
context.run_migrations()
