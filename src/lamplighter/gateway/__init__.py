"""The data plane: authenticates, admits, holds, routes, streams and meters; serves the page and the control API.

Never provisions anything: what runs is the keeper's business (`capacity`), and the two meet in the store only.
"""
