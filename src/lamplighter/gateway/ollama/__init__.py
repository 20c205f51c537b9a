"""Ollama's API beside our own, so that programs made for Ollama work unchanged: requests in, answers out, and what there is to list.

Its inference routes go the way of all others (`inference.operations`); nothing here knows engines, queues or sockets.
"""
