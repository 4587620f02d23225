"""Plugins that change an update before it is sent."""
