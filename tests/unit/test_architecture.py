"""The import rules of docs/architecture.md, checked on the text of every module, and once in a fresh process.

The rules work on (module, source) pairs, so that each rule is shown to catch what it forbids.
"""

import ast
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.families import FAMILIES

ROOT = Path(__file__).parents[2]
ORDER = ("schemas", "infra", "workers", "orchestrator")
"""A package may import itself and what stands left of it."""

HOMES = {
    **dict.fromkeys(("celery", "kombu", "billiard", "flower", "redis", "minio"), ("infra",)),
    **dict.fromkeys(("torch", "torchvision", "safetensors"), ("workers", "orchestrator")),
    "open_clip": ("workers.models",),
    "datasets": ("workers.datasets",),
}
"""Libraries that only some packages may import."""

LONGEST_MODULE, LONGEST_FUNCTION = 250, 40
LONGER = {
    "infra.celery_app.make_app",  # Celery's settings, one per line with its reason: a table, not a computation
}

Sources = dict[str, str]


@functools.cache
def _sources() -> Sources:
    paths = [path for package in ORDER for path in sorted((ROOT / package).rglob("*.py"))]
    return {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p.read_text() for p in paths}


def _imports(source: str) -> Iterator[tuple[str, bool]]:
    """(imported dotted name, whether it is imported at import time) of a module; relative imports as they are."""
    tree = ast.parse(source)
    inner = {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node not in inner) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield module, node not in inner
            yield from ((f"{module}.{alias.name}", node not in inner) for alias in node.names)


def leftwards(module: str, source: str) -> list[str]:
    """Imports of a package further to the right, and relative ones, which hide where they lead."""
    own = ORDER.index(module.partition(".")[0])
    names = {name for name, _ in _imports(source)}
    return [n for n in sorted(names) if n.startswith(".") or n.split(".")[0] in ORDER[own + 1 :]]


def at_home(module: str, source: str) -> list[str]:
    """Imports of a library outside the packages that may."""
    names = {name for name, _ in _imports(source)}
    return [n for n in sorted(names) if not _within(module, HOMES.get(n.split(".")[0], (module,)))]


def lazily(module: str, source: str) -> list[str]:
    """open_clip at import time: it takes seconds, and the orchestrator loads every method."""
    return [n for n, top in _imports(source) if top and n.split(".")[0] == "open_clip"]


def alone(module: str, source: str) -> list[str]:
    """Imports of another plugin of the same family. A module that begins with `_` is shared mechanics, no plugin."""
    family = module.rpartition(".")[0]
    if family not in FAMILIES.values():
        return []
    siblings = [n.removeprefix(f"{family}.").split(".")[0] for n, _ in _imports(source) if n.startswith(f"{family}.")]
    return [s for s in siblings if not s.startswith("_") and s != module.rpartition(".")[2]]


def short(module: str, source: str) -> list[str]:
    """Modules and functions over their limits, but for those that have a reason."""
    return [name for name in too_long(module, source) if name not in LONGER]


def too_long(module: str, source: str) -> list[str]:
    """Modules and functions over their limits, in lines."""
    found = {module: len(source.splitlines()) - LONGEST_MODULE}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[f"{module}.{node.name}"] = (node.end_lineno or 0) - node.lineno + 1 - LONGEST_FUNCTION
    return [name for name, over in found.items() if over > 0]


def synchronous(module: str, source: str) -> list[str]:
    """`async def`: asynchronous is the protocol, not the code."""
    return [f"{module}.{n.name}" for n in ast.walk(ast.parse(source)) if isinstance(n, ast.AsyncFunctionDef)]


def _within(module: str, homes: tuple[str, ...]) -> bool:
    return any(f"{module}.".startswith(f"{home}.") for home in homes)


Rule = Callable[[str, str], list[str]]
RULES: tuple[Rule, ...] = (leftwards, at_home, lazily, alone, short, synchronous)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps_the_rule(rule: Rule) -> None:
    sources = _sources()
    assert {m.split(".")[0] for m in sources} == set(ORDER)
    assert {module: found for module, source in sources.items() if (found := rule(module, source))} == {}


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (leftwards, "schemas.base", "import infra.blobs"),
        (leftwards, "infra.blobs", "def f():\n    from workers.tensors import pack"),
        (leftwards, "workers.execute", "from orchestrator import keys"),
        (leftwards, "workers.execute", "from . import tensors"),
        (at_home, "workers.execute", "import redis"),
        (at_home, "orchestrator.post", "def f():\n    from celery import Celery"),
        (at_home, "orchestrator.post", "from kombu.exceptions import OperationalError"),
        (at_home, "orchestrator.run", "import minio.error"),
        (at_home, "infra.blobs", "import torch"),
        (at_home, "schemas.base", "from torch.nn import Module"),
        (at_home, "workers.data.features", "def f():\n    import open_clip"),
        (at_home, "workers.models_of_mine", "def f():\n    import open_clip"),
        (lazily, "workers.models.tiny", "import open_clip"),
        (lazily, "workers.models.tiny", "class A:\n    from open_clip import create_model"),
        (alone, "workers.methods.fedclip", "from workers.methods import fedavg"),
        (alone, "workers.methods.fedclip", "from workers.methods.fedavg import FedAvg"),
        (alone, "orchestrator.selectors.uniform", "def f():\n    import orchestrator.selectors.oort"),
        (short, "infra.blobs", "a = 1\n" * 251),
        (short, "infra.blobs", "def f():\n" + "    a = 1\n" * 40),
        (short, "infra.blobs", "class A:\n    async def f(self):\n" + "        a = 1\n" * 40),
        (synchronous, "infra.blobs", "async def f(): ..."),
    ],
)
def test_a_rule_catches_what_it_forbids(rule: Rule, module: str, source: str) -> None:
    assert rule(module, source)


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (leftwards, "orchestrator.run", "import schemas.base, infra.blobs, workers.tensors, orchestrator.keys"),
        (at_home, "infra.redis_state", "import redis"),
        (at_home, "workers.models._clip", "def f():\n    import open_clip"),
        (lazily, "workers.models._clip", "def f():\n    import open_clip"),
        (alone, "workers.models.tiny", "from workers.models._clip import FrozenClip"),
        (alone, "workers.execute", "from workers.methods import fedavg"),
        (short, "infra.blobs", "a = 1\n" * 250),
        (short, "infra.blobs", "def f():\n" + "    a = 1\n" * 39),
    ],
)
def test_a_rule_allows_what_is_right(rule: Rule, module: str, source: str) -> None:
    assert rule(module, source) == []


def test_the_list_of_longer_ones_names_nothing_that_is_short_enough() -> None:
    assert {name for module, source in _sources().items() for name in too_long(module, source)} >= LONGER


FRESH = """
import json, pkgutil, sys, time
from pathlib import Path
import infra, schemas
for package in (schemas, infra):
    for found in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if not any(server in found.name for server in ("celery", "redis", "minio")):
            __import__(found.name)
HEAVY = ("torch", "torchvision", "open_clip", "celery", "kombu", "redis", "minio", "numpy")
loaded = {"contracts": [m for m in HEAVY if m in sys.modules]}

from orchestrator import cli
def command(*arguments):
    sys.argv = ["quorate", *arguments]
    try:
        cli.main()
    except SystemExit as e:
        assert e.code == 0, (arguments, e.code)
    loaded[arguments[0]] = [m for m in HEAVY if m in sys.modules]
command("version")
command("list")
command("runs")
command("report", "done")
command("cache")
loaded["cpu_s"] = time.process_time()

import orchestrator.command, orchestrator.run
from orchestrator.plan import plan, read_experiment
made = plan(read_experiment(Path(DEMO)))
from workers.plugins import names, plugin_class
from orchestrator.families import FAMILIES
loaded["plugins"] = [plugin_class(f, n).__name__ for f in FAMILIES.values() for n in names(f)]
loaded["orchestrator"] = [m for m in ("torch", "open_clip", "celery", "redis", "minio") if m in sys.modules]
print(json.dumps(loaded), file=sys.stderr)
"""


def test_contracts_and_looking_commands_are_light_and_the_orchestrator_never_loads_a_backbone(tmp_path: Path) -> None:
    report = tmp_path / "runs" / "done" / "report.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps(REPORT))
    program = FRESH.replace("DEMO", repr(str(ROOT / "experiments" / "demo.yaml")))
    clean = {k: v for k, v in os.environ.items() if not k.startswith("QUORATE_")}
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**clean, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    loaded = json.loads(ran.stderr.splitlines()[-1])
    for light in ("contracts", "version", "list", "runs", "report", "cache"):
        assert loaded[light] == [], light
    assert loaded["cpu_s"] < 3  # all five commands together; importing torch alone takes longer
    assert len(loaded["plugins"]) >= 12
    assert loaded["orchestrator"] == ["torch"]
    assert not (tmp_path / ".quorate").exists()  # looking makes no folders


REPORT = {
    "run": "done",
    "status": "finished",
    "version": 0,
    "seconds": 0.0,
    "accuracy": {},
    "bytes_up": 0,
    "bytes_down": 0,
    "wasted_share": 0.0,
    "mean_staleness": 0.0,
    "ledger": {},
    "closed_without": {},
    "encodes": 0,
    "adapter_sha256": "0" * 64,
    "seed": 0,
    "code_version": "0",
    "backbone_fingerprint": "",
}
