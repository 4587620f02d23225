"""What a client runs, and the learning library that both sides share: data, models, methods (both halves), codecs.

Knows schemas and infra. Must not know the orchestrator.
"""
