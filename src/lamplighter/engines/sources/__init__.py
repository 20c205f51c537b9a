"""Where weights come from. `files`: what a source means and whether it is here (light); `fetch`: bring it (network, imported when needed)."""
