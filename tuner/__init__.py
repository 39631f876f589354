"""Finds the cheapest launch configuration of an LLM server that still meets its latency limit."""

__version__ = "0.1.0"
