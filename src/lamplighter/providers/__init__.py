"""Where replicas run. `base` holds the contract; each folder beside it is one vendor, deletable as a whole."""
