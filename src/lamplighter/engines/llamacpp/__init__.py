"""llama.cpp embedded: our own small server process around its wheel. `engine` is the contract, `child` the process."""
