"""Plugins: the trainable part on top of frozen features: float32 (B, D) raw features in, logits (B, K) out."""
