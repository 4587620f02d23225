"""How a test of a run ends: its whole history holds together, or the test fails with every sentence of the audit."""

from orchestrator.audit import Verdict, audit
from orchestrator.commits import Commits


def whole(commits: Commits) -> Verdict:
    """The verdict on a run, if it breaks no rule."""
    verdict = audit(commits)
    assert not verdict.violations, "\n".join(verdict.violations)
    return verdict
