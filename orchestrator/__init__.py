"""Decisions: what to ask, what to admit, when to close, what a version is. Command line, report and live view.

Knows everything to its left. Never loads a backbone and never sees data: what needs either goes out as a task.
"""
