"""vLLM, as a process of ours or a server of somebody else's. `engine` is the contract, `child` our process around its program, `log` its log."""
