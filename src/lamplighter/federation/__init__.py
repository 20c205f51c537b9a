"""Joins clusters by Liqo, so that pods of the home cluster run on GPU nodes elsewhere, over the Nebula mesh.

`peering` joins, `retreat` parts again, `offload` opens the namespace, `canary` proves it, `status` says what is wrong, `install` gives the
settings of Liqo's chart. Only objects are written, and each call does what can be done now: Liqo's own controllers do the rest. What
`liqoctl` does on its side (the handshake's signature request, copies of public objects) is done here in the same way.

Not responsible for machines, their k3s, or the mesh; nor for the engines' workloads.
"""
