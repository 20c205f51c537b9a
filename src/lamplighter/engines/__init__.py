"""The programs that run models: what to start, how to tell readiness, what they can do. `base` holds the contract.

Not responsible for starting anything: that is a provider's work.
"""
