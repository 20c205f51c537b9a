"""How each family of clients wants answers, streams, heartbeats and errors to look. One module per family; none knows routing or sockets."""
