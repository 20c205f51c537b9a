"""`/v1/*`: reading a request, holding it, routing it, and streaming its answer. The transport is elsewhere (`upstream`, `wire`)."""
