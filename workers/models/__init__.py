"""Frozen CLIP backbones. The only folder that imports open_clip, and only inside functions."""
