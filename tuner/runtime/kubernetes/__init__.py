"""Trials as Kubernetes Jobs. Only `client` imports the official client, and late; cluster objects are plain JSON."""
