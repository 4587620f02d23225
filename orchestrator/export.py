"""What `quorate export` does: the result of a run as a folder that needs open_clip and nothing of Quorate.

Knows the folder of a run. Changes nothing in it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from infra import logs, settings
from infra.runtime import connect_blobs
from orchestrator import card, results
from orchestrator.archive import read_journal, read_report
from orchestrator.personal import is_personal, own
from schemas.adapter import AdapterFacts
from schemas.base import Choice
from schemas.errors import ConfigError
from workers.adapter import Adapter, of_group, with_weights
from workers.classifier import Classifier, attached, classifier
from workers.models import _portable
from workers.tensors import size

LOAD = '''"""Says which classes CLIP with this adapter sees in image files: python load.py IMAGE..."""
import json, pathlib, sys, open_clip, torch
from PIL import Image

here = pathlib.Path(__file__).parent
classes = json.loads((here / "config.json").read_text())["classes"]
clip, preprocess = open_clip.create_model_from_pretrained({backbone})
adapter = torch.export.load(here / "adapter.pt2").module()  # {takes} -> probabilities

for name in sys.argv[1:]:
    probabilities = adapter({given})[0]
    likeliest = sorted(zip(probabilities.tolist(), classes, strict=True), reverse=True)[:3]
    print(name, *(f"{{label}} {{100 * p:.1f}} %" for p, label in likeliest), sep="  ")
'''
"""Plain open_clip and torch, for any method."""

GIVEN = {
    True: ("raw features", "clip.eval().encode_image(preprocess(Image.open(name))[None])"),
    False: ("images", "preprocess(Image.open(name))[None]"),
}
"""What the program takes, and how it is made of an image: whether the method learns from features."""


def export(
    run: str, to: Path, *, group: str | None = None, weights: Path | None = None, plugins: Sequence[str] = ()
) -> None:
    """Write the folder, whole or not at all, and say what is in it. Raises ConfigError, OSError."""
    logs.setup("error")
    folder = results.folder_of(run)
    if to.exists():
        raise ConfigError(f"{to} is there already", hint="name a new folder")
    adapter = of_group(results.read_result(folder), group)
    report, events = read_report(folder / "report.json"), read_journal(folder)
    environment, tag = settings.read(), _portable.tag(adapter.facts.backbone)
    made = classifier(with_weights(adapter, weights), environment.cache, plugins)
    personal = is_personal(adapter.facts.method.name)
    clients = own(adapter, events, connect_blobs(environment)) if personal else {}
    with results.whole_folder(to) as part:
        if tag is None:
            _portable.write(made.features.backbone, part / "backbone")
        _write(part, adapter, made, arguments(tag))
        for client, one in clients.items():
            (part / "clients" / client).mkdir(parents=True)
            _write(part / "clients" / client, one, attached(one, made.features, plugins), arguments(tag, "../../"))
        told = card.Told(
            adapter.facts, report, tuple(events), tag, size(adapter.tensors), personal, tuple(clients),
            made.module.cached,
        )  # fmt: skip
        (part / "README.md").write_text(card.write(told))
    click.echo(f"{to}/ holds {', '.join(sorted(p.name for p in to.iterdir()))}")
    if personal:
        click.echo(card.OWN_HERE if clients else card.OWN_ELSEWHERE)
    click.echo(f"python {to / 'load.py'} IMAGE...  needs torch and open_clip alone")


def _write(folder: Path, adapter: Adapter, made: Classifier, backbone: str) -> None:
    """One model: as a program, as tensors, and what loads it."""
    facts = adapter.facts.model_copy(update={"backbone": _without_paths(adapter.facts.backbone)})
    (folder / "adapter.pt2").write_bytes(made.program())
    (folder / results.ADAPTER).write_bytes(results.written(facts, adapter.tensors))
    (folder / "config.json").write_text(_config(made, facts))
    takes, given = GIVEN[made.module.cached]
    (folder / "load.py").write_text(LOAD.format(backbone=backbone, takes=takes, given=given))


def _config(made: Classifier, facts: AdapterFacts) -> str:
    more = {"feature_size": made.features.backbone.dim, "logit_scale": made.features.scale()}
    return json.dumps(facts.model_dump(mode="json") | more, indent=2, ensure_ascii=False) + "\n"


def arguments(tag: tuple[str, str] | None, up: str = "") -> str:
    """What open_clip is asked for, as Python. up: from the script's folder to that of the backbone's."""
    return f"{tag[0]!r}, pretrained={tag[1]!r}" if tag else f"""f"local-dir:{{here / '{up}backbone'}}\""""


def _without_paths(backbone: Choice) -> Choice:
    """The choice with the last part only of each path: where a file lay is nobody's business."""
    return Choice(name=backbone.name, params={k: _last(v) for k, v in backbone.params.items()})


def _last(value: object) -> object:
    absolute = isinstance(value, str) and Path(value.removeprefix("local-dir:")).is_absolute()
    return Path(str(value)).name if absolute else value
