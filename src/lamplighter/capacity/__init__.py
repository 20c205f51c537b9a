"""The control plane: decides how much runs and makes it so. `plan` and `reconcile` decide, purely; `keeper` and `pool` act.

Not responsible for a client's request: demand comes from the store, and endpoints go back to it.
"""
