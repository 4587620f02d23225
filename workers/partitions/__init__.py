"""Plugins that give each image to one client: `split(images, generator)`."""
