"""What a run leaves on this machine: `runs/<name>/`, which appears whole or not at all."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from infra import files
from orchestrator.archive import read_beginning, read_report
from orchestrator.commits import LARGEST
from orchestrator.report import flat
from orchestrator.run import Outcome
from schemas.adapter import AdapterFacts
from schemas.base import canonical
from schemas.errors import ConfigError
from schemas.experiment import Experiment
from workers.adapter import Adapter, read_adapter
from workers.tensors import Tensors, fingerprint, pack

FOLDER = Path("runs")
ADAPTER = "adapter.safetensors"


def keep(outcome: Outcome, experiment: Experiment, folder: Path = FOLDER) -> Path:
    """Write experiment.yaml, journal.jsonl, report.json and adapter.safetensors, and show them all at once."""
    target = folder / outcome.report.run
    if target.exists():
        if files.whole(target / "report.json", LARGEST) != _text(outcome).encode():
            raise ConfigError(f"{target} holds another run of this name", hint="move it away, or choose another --name")
        return target
    with whole_folder(target) as part:
        document = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        (part / "experiment.yaml").write_text(document)
        (part / "journal.jsonl").write_bytes(b"".join(canonical(e) + b"\n" for e in outcome.events))
        (part / "report.json").write_text(_text(outcome))
        if outcome.commit is not None:
            (part / ADAPTER).write_bytes(adapter(outcome, experiment))
    return target


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, which is at its place with all that is in it, or not at all. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield part
        part.chmod(0o755)
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def folder_of(run: str) -> Path:
    """The folder of a run's result, by the run's name or its own path. Raises ConfigError."""
    for folder in (FOLDER / run, Path(run)):
        if (folder / "report.json").is_file():
            return folder
    raise ConfigError(
        f"there is no result of run {run!r} here", hint=f"{FOLDER}/NAME holds one; quorate runs lists them"
    )


def _text(outcome: Outcome) -> str:
    return outcome.report.model_dump_json(indent=2) + "\n"


def adapter(outcome: Outcome, experiment: Experiment) -> bytes:
    """The final tensors as safetensors that say what they belong to, each fact as JSON in the metadata."""
    described = next(e for e in outcome.events if e.event == "described")
    facts = AdapterFacts(
        method=experiment.method,
        classes=described.facts["classes"],
        prompts=experiment.model.prompts,
        backbone=experiment.model.backbone,
        backbone_fingerprint=described.facts["fingerprint"],
        run=outcome.report.run,
        seed=experiment.seed,
        version=outcome.report.version,
        sha256=fingerprint(flat(outcome.tensors)),
    )
    return written(facts, flat(outcome.tensors))


def written(facts: AdapterFacts, tensors: Tensors) -> bytes:
    """An adapter file: the tensors, and what they belong to as metadata."""
    told = {name: json.dumps(value, ensure_ascii=False) for name, value in facts.model_dump(mode="json").items()}
    return pack(tensors, told)


def read_result(path: Path) -> Adapter:
    """The adapter that is meant, held to what else its run has left beside it. Raises ConfigError."""
    file = adapter_of(path)
    found = read_adapter(file)
    facts = found.facts.model_dump(mode="json")
    for name, value in _known(file.parent).items():
        if facts[name] != value:
            raise ConfigError(f"{file} is not the adapter of the run beside it: its {name} is another")
    return found


def _known(folder: Path) -> dict[str, Any]:
    """What the report and the journal in a folder say of the adapter, as far as they are there."""
    if not (folder / "report.json").is_file():
        return {}
    report, found = read_report(folder / "report.json"), dict[str, Any]()
    for event in read_beginning(folder):
        if event.event == "started":
            asked = event.facts["experiment"]
            found |= {
                "method": asked["method"],
                "prompts": asked["model"]["prompts"],
                "backbone": asked["model"]["backbone"],
            }
        elif event.event == "described":
            found |= {"classes": event.facts["classes"]}
    return found | {
        "sha256": report.adapter_sha256, "run": report.run, "version": report.version, "seed": report.seed,
        "backbone_fingerprint": report.backbone_fingerprint,
    }  # fmt: skip


def adapter_of(path: Path) -> Path:
    """The adapter file that is meant: the file itself, or the one in the folder of a run, of that name or an export."""
    found = next((p for p in (path, FOLDER / path) if p.exists()), path)
    return found / ADAPTER if found.is_dir() else found
