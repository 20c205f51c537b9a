"""What every test may ask for: real PostgreSQL and Redis servers, started only when a test does."""

pytest_plugins = ["tests.services"]
