"""The words of the product as types: states, reasons, errors, units, ids, time. Imports nothing else of ours."""
