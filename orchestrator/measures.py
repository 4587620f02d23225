"""What is measured of a run, with the text that explains it: the names of its Prometheus metrics, `quorate_` before
each. Units stand in the names, in the base units of Prometheus; counters get the ending `_total`.
"""

WAITS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
WORK_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
LAGS = (0, 1, 2, 3, 5, 8, 13, 21, 34)

COUNTERS = {
    "versions": "Versions committed.",
    "updates_asked": "Updates that clients were asked for.",
    "updates_accepted": "Updates counted in the round they were asked in.",
    "updates_late": "Updates counted in a later round than the one they were asked in.",
    "updates_without": "Clients that a round was closed without.",
    "updates_rejected": "Updates refused at admission.",
    "updates_lost": "Updates that did not come.",
    "tasks_resent": "Tasks sent again, as a new attempt.",
    "rounds_retried": "Rounds that asked for replacements because too few had answered.",
    "messages_ignored": "Entries of the stream that answer nothing.",
    "evaluations_missing": "Evaluations that did not come.",
    "up_bytes": "Bytes of updates that arrived.",
    "down_bytes": "Bytes of models given to training tasks.",
    "images_encoded": "Images passed through the backbone.",
    "store_outages": "Times that the loop waited for a store that did not answer.",
    "loads": "Times that a loop took the run up from a commit.",
}
WITH_REASON = {
    "updates_rejected": (
        "absent", "corrupt", "counted", "dtypes", "implausible", "moved", "names", "no update", "norm", "not finite",
        "other client", "private state", "run over", "shapes", "too large", "too stale", "unreadable", "weight",
    ),
    "updates_lost": ("deadline", "too stale", "moved", "no result in the manifest", "attempts", "failed"),
    "tasks_resent": ("worker gone", "lost on the way", "asked anew", "infra", "grant"),
    "messages_ignored": ("unknown or too old",),
}  # fmt: skip
"""Counters per reason. Those that are known are there from the beginning, as 0: of a counter that appears as 1,
`rate` and `increase` see nothing."""
GAUGES = {
    "version": "The last committed version.",
    "versions_wanted": "The version with which the run ends.",
    "quorum": "Updates that close a round.",
    "in_flight": "Clients that are asked and have not answered.",
    "in_flight_limit": "Most clients that are asked at the same time.",
    "waiting_updates": "Updates admitted for the open round.",
    "clients": "Clients that train.",
    "accuracy_mean_ratio": "Accuracy on the test images of the training clients, 0 to 1, their mean.",
    "accuracy_worst_ratio": "Accuracy on the test images of the training clients, 0 to 1, the lowest.",
    "domain_accuracy_ratio": "Accuracy per domain, 0 to 1: mean over its training clients, or a held-out one.",
    "client_accuracy_ratio": "Accuracy per training client, 0 to 1, while they are few.",
    "evaluated_version": "The version that the accuracies are of.",
    "last_commit_timestamp_seconds": "When the last version was committed, Unix seconds.",
}
LABELS = {"domain_accuracy_ratio": ("domain", "held_out"), "client_accuracy_ratio": ("client",)}
HISTOGRAMS: dict[str, tuple[str, tuple[float, ...]]] = {
    "quorum_wait_seconds": ("From the opening of a round to its quorum, in seconds of the run's clock.", WAITS_S),
    "grace_wait_seconds": ("From the quorum of a round to its close, in seconds of the run's clock.", WAITS_S),
    "round_seconds": ("From the opening of a round to its close, in seconds of the run's clock.", WAITS_S),
    "fold_seconds": ("Fold and merge of a version.", WORK_S),
    "commit_seconds": ("Storing a version, from the merge to the commit.", WORK_S),
    "task_seconds": ("Work on a training or evaluation task, as the worker says.", WORK_S),
    "staleness_versions": ("Versions that a counted update lagged.", LAGS),
}
