"""Which folder holds which family of plugins. `quorate list` and the generated docs show them in this order."""

FAMILIES = {
    "method": "workers.methods",
    "adapter": "workers.adapters",
    "codec": "workers.codecs",
    "transform": "workers.transforms",
    "aggregator": "orchestrator.aggregators",
    "selector": "orchestrator.selectors",
    "backbone": "workers.models",
    "dataset": "workers.datasets",
    "partition": "workers.partitions",
    "latency": "orchestrator.latencies",
    "presence": "orchestrator.presences",
}
