"""Puts on a Kubernetes cluster what Lamplighter needs there, by pinned charts, and takes it off again; what is the user's own stays theirs.

Not responsible for models on the cluster (`providers.kubernetes`), nor for joining clusters (`federation`).
"""
