"""What runs on a cloud node: the agent, one file of the standard library. It is shipped as text, never imported by the rest."""
