"""The only place where the two planes meet: tables, migrations, queries and the bus. See `store.store.Store`."""
