"""Lamplighter: your own LLM endpoint; the GPU burns only while someone is using it."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("lamplighter")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
