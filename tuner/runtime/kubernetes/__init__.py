"""Trials as Kubernetes Jobs."""
