"""Plugins: one federated method per file, both halves in one class."""
