"""The command line: one file per command group, and the composition of a whole installation for `up` and `dev`.

Not responsible for any behaviour of the two planes: commands ask the API, `up` only puts the parts together.
"""
