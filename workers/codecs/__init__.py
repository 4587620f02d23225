"""Plugins that turn an update into what is sent and back."""
