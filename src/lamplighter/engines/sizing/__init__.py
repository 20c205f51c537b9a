"""How much GPU memory a model wants, from its own configuration. Pure: `architecture` what it is, `weights` and `cache` its bytes, `budget` what
fits on a GPU, `gpus` and `instances` what there is, `known` configurations for use without a network. `operations.fit` finds and tells.
"""
