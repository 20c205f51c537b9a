"""Shipped fakes: engine, cloud, clock; and the contract suites for engines and providers. No product code imports it."""
