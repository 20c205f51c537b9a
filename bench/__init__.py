"""Measures the gateway the way its users feel it; `python -m bench` prints the table. Not part of the product."""
