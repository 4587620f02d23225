"""Plugins that turn a source of images into `Images`."""
