"""What a run leaves on this machine: `runs/<name>/`, which appears whole or not at all."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml

from orchestrator.report import flat
from orchestrator.run import Outcome
from schemas.base import canonical
from schemas.errors import ConfigError
from schemas.experiment import Experiment
from workers.tensors import pack

FOLDER = Path("runs")


def keep(outcome: Outcome, experiment: Experiment, folder: Path = FOLDER) -> Path:
    """Write experiment.yaml, journal.jsonl, report.json and adapter.safetensors, and show them all at once."""
    target = folder / outcome.report.run
    if target.exists():
        if (target / "report.json").read_text() != _text(outcome):
            raise ConfigError(f"{target} holds another run of this name", hint="move it away, or choose another --name")
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=folder))
    try:
        document = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        (part / "experiment.yaml").write_text(document)
        (part / "journal.jsonl").write_bytes(b"".join(canonical(e) + b"\n" for e in outcome.events))
        (part / "report.json").write_text(_text(outcome))
        if outcome.commit is not None:
            (part / "adapter.safetensors").write_bytes(adapter(outcome, experiment))
        part.chmod(0o755)
        part.rename(target)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return target


def _text(outcome: Outcome) -> str:
    return outcome.report.model_dump_json(indent=2) + "\n"


def adapter(outcome: Outcome, experiment: Experiment) -> bytes:
    """The final tensors as safetensors that say what they belong to, each fact as JSON in the metadata."""
    described = next(e for e in outcome.events if e.event == "described")
    facts: dict[str, Any] = {
        "method": experiment.method.model_dump(mode="json"),
        "classes": described.facts["classes"],
        "prompts": experiment.model.prompts,
        "backbone": experiment.model.backbone.model_dump(mode="json"),
        "backbone_fingerprint": described.facts["fingerprint"],
        "run": outcome.report.run,
        "version": outcome.report.version,
        "sha256": outcome.report.adapter_sha256,
    }
    return pack(flat(outcome.tensors), {k: json.dumps(v, ensure_ascii=False) for k, v in facts.items()})
