"""Ollama, as a server of somebody else's or a process of ours. `engine` is the contract, `child` our process around `ollama serve`."""
