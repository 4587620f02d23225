"""Where, when and with what something was measured. Reads the system; measures nothing."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from infra.servers import valkey, weed
from schemas.base import Frozen

PACKAGES = ("quorate", "torch", "celery", "kombu", "redis", "minio", "pydantic")
ROOT = Path(__file__).parent.parent


class Where(Frozen):
    """load: mean number of running processes over the last minute, as a measurement began."""

    date: str
    commit: str
    cpu: str
    cores: int
    memory_gb: int
    system: str
    versions: dict[str, str]
    load: float


def here() -> Where:
    """This machine, now."""
    return Where(
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        commit=_commit(),
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        system=f"{platform.system()} {platform.machine()}",
        versions={"python": platform.python_version()} | {p: _version(p) for p in PACKAGES} | _servers(),
        load=round(os.getloadavg()[0], 1),
    )


def _commit() -> str:
    """The commit, with a mark if product files differ from it."""
    head = _said("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    changed = _said(
        "git", "-C", str(ROOT), "status", "--porcelain", "--", "schemas", "infra", "workers", "orchestrator"
    )
    return (head or "unknown") + ("+" if changed else "")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _servers() -> dict[str, str]:
    """What the S3 and the Valkey say of themselves, in a word each."""
    programs = {"valkey": (valkey(), "--version"), "seaweedfs": (weed(), "version")}
    said = {name: _said(str(path), flag) for name, (path, flag) in programs.items() if path}
    return {name: _number(text) for name, text in said.items() if text}


def _number(text: str) -> str:
    words = [w.removeprefix("v=") for w in text.split()]
    return next((w for w in words if w[:1].isdigit() and "." in w), "unknown")


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout.strip()
    except OSError:
        return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
