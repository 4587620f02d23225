"""Input and output: object store, state store, stream, queue, logs, settings. No tensors, no decisions.

celery, redis and minio are imported here alone, and only by the module that speaks to that server.
"""
