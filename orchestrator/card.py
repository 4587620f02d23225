"""The README.md of an export: what a stranger has to know of a result before using it.

Knows the report and the journal of the run. Must not know images, paths, or anything that a client did not tell.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from orchestrator.intervals import wilson
from orchestrator.wording import percent, size
from schemas.adapter import AdapterFacts
from schemas.log import Event
from schemas.report import Report
from workers.plugins import plugin_class

OWN_HERE = "clients/ holds the clients' own models, by which they are judged; the one beside it is for everybody else."
OWN_ELSEWHERE = "The clients' own models are not here: their private state lies with them, or in another store."

LIBRARIES = ("quorate", "torch", "open_clip_torch")


@dataclass(frozen=True)
class Told:
    """What a card is made of. tag: open_clip's model and tag of the backbone, if it is published. bytes: of tensors.

    personal: whether clients may have models of their own. clients: those whose own are in the export.
    cached: whether the method learns from features, and not inside the image tower.
    """

    facts: AdapterFacts
    report: Report
    events: Sequence[Event]
    tag: tuple[str, str] | None
    bytes: int
    personal: bool = False
    clients: Sequence[str] = ()
    cached: bool = True


@dataclass(frozen=True)
class Score:
    """Test images of one owner or of several: how many, and how many of them were classified right."""

    of: int
    right: int
    zero_shot: int | None

    def __add__(self, other: "Score") -> "Score":
        known = self.zero_shot is not None and other.zero_shot is not None
        zero_shot = (self.zero_shot or 0) + (other.zero_shot or 0) if known else None
        return Score(self.of + other.of, self.right + other.right, zero_shot)


Owners = dict[str, dict[str, Any]]

PROGRAM = {
    True: "raw image features to probabilities as a `torch.export` program, class texts included",
    False: "preprocessed images to probabilities as a `torch.export` program, image tower and class texts included",
}
"""What `adapter.pt2` is, by whether the method learns from features."""
ELSEWHERE = {
    True: "Of the features of another one the adapter understands nothing.",
    False: "The adapter changes the image tower of this one, and fits no other.",
}


def write(told: Told) -> str:
    """The page, as Markdown with the header of a model card."""
    owners, scores = _owners(told.events), _scores(told.events, told.report.version)
    parts = (
        _head(told, owners),
        _use(told),
        _data(told, owners, scores),
        _accuracy(told, owners, scores),
        _method(told),
        _privacy(told),
    )
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _head(told: Told, owners: Owners) -> list[str]:
    facts, trainers = told.facts, sum(not o["held_out"] for o in owners.values())
    return [
        "---", "library_name: open_clip", "pipeline_tag: image-classification", "tags: [clip, federated-learning]",
        "---", "",
        f"# {facts.run}: {_text(facts.method.name)} on {_text(_backbone(told))}", "",
        f"An adapter on a frozen CLIP that tells {len(facts.classes)} classes apart: {size(told.bytes)} of tensors, "
        f"trained with Quorate on the images of {trainers} owners, in {facts.version} versions."
        + (f" It is the model of the group `{facts.group}`, one of several." if facts.group else ""),
    ]  # fmt: skip


def _use(told: Told) -> list[str]:
    rows = [
        ("`load.py`", "loads CLIP, attaches the adapter, prints the likeliest classes"),
        ("`adapter.pt2`", PROGRAM[told.cached]),
        ("`adapter.safetensors`", "the tensors and what they belong to, for `quorate predict`"),
        ("`config.json`", "classes in the order of the probabilities, prompts, method, backbone"),
    ]
    if told.tag is None:
        rows.append(("`backbone/`", "the frozen CLIP, in open_clip's `local-dir:` layout"))
    if told.clients:
        rows.append(
            ("`clients/OWNER/`", f"the same four files for the own model of each of {len(told.clients)} owners")
        )
    return [
        "## Use", "", "```sh", "pip install torch open_clip_torch", "python load.py IMAGE...", "```", "",
        *_table(("file", "what it is"), rows), "",
        "torch may unpickle parts of `adapter.pt2`: run it if you trust whoever gave it to you.", "",
        f"Backbone: {_text(_backbone(told))}, fingerprint `{told.facts.backbone_fingerprint}`. "
        f"{ELSEWHERE[told.cached]}",
    ]  # fmt: skip


def _data(told: Told, owners: Owners, scores: dict[str, Score]) -> list[str]:
    tested = {name: {"test": score.of} for name, score in scores.items()}  # all that is known of a held-out owner
    known = {name: tested.get(name, {}) | owner for name, owner in owners.items()}
    rows = [
        (name, _text(_domain(o)), *(o.get(part, "–") for part in ("train", "val", "test"))) for name, o in known.items()
    ]
    skipped = sum(told.report.skipped.values())
    return [
        "## Data", "",
        f"Classes: {', '.join(map(_text, told.facts.classes))}.", "",
        f"Prompts: {', '.join(f'`{p}`' for p in told.facts.prompts)}.", "",
        "Numbers of images, as the owners described them. Nobody trains on what is held out.", "",
        *_table(("owner", "domain", "train", "validation", "test"), rows), "",
        "How many images of each class an owner has, what they show and where they come from the run was not told."
        + (f" {skipped} files were left out as unreadable." if skipped else ""),
    ]  # fmt: skip


def _accuracy(told: Told, owners: Owners, scores: dict[str, Score]) -> list[str]:
    domains: dict[str, Score] = {}
    for name, score in scores.items():
        domain = _domain(owners.get(name, {}))
        domains[domain] = domains[domain] + score if domain in domains else score
    whose = ", each by the model of its own group, which need not be this one" if told.facts.group else ""
    columns = ("test images", "zero-shot", "accuracy", "95 % interval")
    if not scores:
        return ["## Accuracy", "", "The last version was not evaluated."]
    return [
        "## Accuracy", "", f"Of version {told.report.version}, on the owners' test images{whose}.", "",
        *_table(("domain", *columns), [(_text(d), *_cells(s)) for d, s in sorted(domains.items())]), "",
        *_table(("owner", *columns), [(_marked(n, owners.get(n, {})), *_cells(s)) for n, s in sorted(scores.items())]),
        "",
        "The interval is Wilson's for a binomial share: how far the draw of the test images may have moved the figure. "
        "Other owners, other kinds of images and other seeds of the training are not in it.",
    ]  # fmt: skip


def _method(told: Told) -> list[str]:
    method, report = told.facts.method, told.report
    found: type[Any] = plugin_class("workers.methods", method.name)
    params = ", ".join(f"{k}={v}" for k, v in method.params.items()) or "as they are by default"
    lines = ["## Method", "", f"`{method.name}`, parameters {_text(params)}.", "", *_source(found)]
    if "adapter" in method.params:
        chosen = method.params["adapter"]
        name = chosen if isinstance(chosen, str) else chosen["name"]
        lines += [f"Its adapter is `{name}`.", "", *_source(plugin_class("workers.adapters", name))]
    if told.personal:
        lines += [OWN_HERE if told.clients else OWN_ELSEWHERE, ""]
    return [*lines,
        f"Run {report.run}: {report.status}, version {report.version}, seed {report.seed}; "
        f"sha256 of the tensors `{told.facts.sha256}`.", "",
        f"Versions: quorate {report.code_version} in training; "
        f"{', '.join(f'{name} {version(name)}' for name in LIBRARIES)} at the export.",
    ]  # fmt: skip


def _source(found: type[Any]) -> list[str]:
    lines = [f"Source: {found.paper}.", ""] if found.paper else []  # Markdown already, as in docs/methods.md
    if found.deviations:
        lines += ["Different from the source:", "", *(f"- {d}" for d in found.deviations), ""]
    return lines


def _privacy(told: Told) -> list[str]:
    experiment: dict[str, Any] = next((e.facts["experiment"] for e in told.events if e.event == "started"), {})
    transforms = ", ".join(t["name"] for t in experiment.get("transforms", ())) or "none"
    where = "Each owner was a site with a worker of its own; images, file names, labels and features never left it."
    if experiment.get("sites") is None:
        where = "This was a simulation: all images lay with one pool of workers, which played every owner."
    return [
        "## Privacy", "",
        f"{where} The run was told names of owners, domains and classes, numbers of images, accuracies, and updates of "
        f"the adapter (transforms on them: {_text(transforms)}).", "",
        "An update, and so this adapter too, can say something about the images behind it. "
        "No guarantee such as differential privacy is claimed.",
    ]  # fmt: skip


def _backbone(told: Told) -> str:
    return " / ".join(told.tag) if told.tag else told.facts.backbone.name


def _domain(owner: dict[str, Any]) -> str:
    """The domain of an owner's images, or all of them."""
    return _marked(", ".join(owner.get("domains", ())) or "unknown", owner)


def _marked(name: str, owner: dict[str, Any]) -> str:
    return f"{name} (held out)" if owner.get("held_out") else name


def _owners(events: Iterable[Event]) -> Owners:
    """What is known of each owner: its domains, its numbers of images, and whether it is held out."""
    found: Owners = {}
    for facts in (e.facts for e in events if e.event in ("described", "joined")):
        domains = facts.get("domains", {})
        for name, split in facts["clients"].items():
            found[name] = {**split, "domains": domains.get(name, ()), "held_out": False}
        for name in facts["held_out"]:
            found[name] = {"domains": domains.get(name, ()), "held_out": True}
    return found


def _scores(events: Iterable[Event], last: int) -> dict[str, Score]:
    """Per owner, what the evaluation of the last version counted."""
    zero_shot: dict[str, float] = {}
    found: dict[str, Score] = {}
    for e in (e for e in events if e.event == "evaluated"):
        who = str(e.client)
        zero_shot |= {who: e.facts["zero_shot"]} if "zero_shot" in e.facts else {}
        of = int(e.facts.get("examples", 0))
        if e.version == last and "accuracy" in e.facts and 1 <= of <= 2**53:  # a site may say what it likes
            before = round(zero_shot[who] * of) if who in zero_shot else None
            found[who] = Score(of, round(e.facts["accuracy"] * of), before)
    return found


def _cells(score: Score) -> Iterator[str]:
    low, high = wilson(score.right, score.of)
    yield str(score.of)
    yield percent(None if score.zero_shot is None else score.zero_shot / score.of)
    yield percent(score.right / score.of)
    yield f"{100 * low:.1f} to {percent(high)}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(map(str, cells))} |" for cells in lines]


def _text(words: str) -> str:
    """Words from elsewhere, of which Markdown shall make nothing."""
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", words)
