"""FedCLIP's protocol: its splits, its choice of a round, and its table, with numbers derived here."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch.nn import functional

from benchmarks import parity
from benchmarks.parity import DOMAINS, NOTES, OTHERS, Fold, folded, lines, planned
from orchestrator.program import program
from schemas.errors import RunFailed
from schemas.experiment import Experiment
from schemas.log import Event
from tests.contracts.test_backbones import mini
from tests.toys import COLOURS, ToyBackbone, paint
from workers.data.owners import read_owners
from workers.method import Examples
from workers.methods.fedclip import FedClip
from workers.setting import Setting
from workers.tensors import Tensors, generator
from workers.training import Recipe, batches

__all__ = ["mini"]

SMALL = [
    "data.params.expect=null",
    "model.backbone={name: 'tests.toys:ToyBackbone'}",
    "data.params.domains={art_painting: [art_painting], cartoon: [cartoon], photo: [photo], sketch: [sketch]}",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("pacs"), domains=DOMAINS, per_class=9)


def test_each_domain_is_split_by_one_permutation_that_is_drawn_alike_for_all(root: Path, tmp_path: Path) -> None:
    # 27 images: floor(16.2) train, floor(5.4) validation and test each; one is dropped. The order is that of
    # numpy's old generator with the run's seed, anew for each domain.
    made = planned(root, "sketch", 1, SMALL)
    assert made.data is not None
    owners = read_owners(made.data, seed=made.seed, cache=tmp_path)
    order = np.random.RandomState(0).permutation(27)
    for owner in owners.clients.values():
        assert sorted(owner.parts.train) == sorted(order[:16])
        assert sorted(owner.parts.val) == sorted(order[16:21])
        assert sorted(owner.parts.test) == sorted(order[21:26])
    (target,) = owners.held_out.values()
    assert len(target.parts.test) == 27 and not len(target.parts.train)


def test_a_fold_is_the_papers_setting(root: Path) -> None:
    made = planned(root, "photo", 200, SMALL)
    assert made.data is not None and made.data.hold_out == ("photo",) and made.data.split == "permutation"
    assert made.method.params == {"preset": "paper"}
    rounds = made.rounds
    assert (rounds.versions, rounds.in_flight, rounds.quorum, rounds.floor, rounds.max_staleness) == (201, 3, 3, 3, 0)


def event(kind: str, version: int, client: str, **facts: object) -> Event:
    return Event(event=kind, at=0.0, wall=0.0, version=version, client=client, facts=dict(facts))


def told(validation: list[float]) -> list[Event]:
    """Rounds whose mean validation is this; test accuracy of round n is n / 100, n / 50 on the target."""
    found = [event("evaluated", 0, d, accuracy=0.0, zero_shot=0.5) for d in DOMAINS]
    for n, mean in enumerate(validation, start=1):
        found += [event("evaluated", n, d, accuracy=n / 100) for d in DOMAINS[:3]]
        found.append(event("evaluated", n, "sketch", accuracy=n / 50))
        apart = (-0.1, 0.0, 0.1)
        found += [
            event("accepted", n, d, base=n, metrics={"validation": mean + a})
            for d, a in zip(DOMAINS[:3], apart, strict=True)
        ]
    return found


@pytest.mark.parametrize(
    ("validation", "chosen"), [([0.5, 0.7, 0.6], 2), ([0.7, 0.7, 0.7], 1), ([0.5, 0.6, 0.8, 0.8], 3), ([0.4], 1)]
)
def test_the_first_round_with_the_best_mean_validation_counts(validation: list[float], chosen: int) -> None:
    fold = folded("sketch", told(validation), len(validation))
    assert fold.round == chosen
    assert fold.validation == pytest.approx(max(validation))
    assert fold.test == {"art_painting": chosen / 100, "cartoon": chosen / 100, "photo": chosen / 100,
                         "sketch": chosen / 50}  # fmt: skip
    assert fold.mean == pytest.approx(chosen * (3 / 100 + 1 / 50) / 4)


def test_a_round_that_somebody_did_not_evaluate_is_no_result() -> None:
    events = [e for e in told([0.5, 0.6]) if not (e.event == "evaluated" and e.version == 2 and e.client == "photo")]
    with pytest.raises(RunFailed, match="round 2 was not evaluated by everybody"):
        folded("sketch", events, 2)


def test_the_table_has_the_published_row_and_zero_shot_beside_ours() -> None:
    folds = [Fold(d, 3, 0.9, dict.fromkeys(DOMAINS, 0.96), dict.fromkeys(DOMAINS, 0.94)) for d in DOMAINS]
    head, *rows, mean, alone = lines(folds)[: -len(NOTES) - len(OTHERS) - 1]
    named = [*(d[:7] for d in DOMAINS), "mean", "zero-shot", "published", "round", "validation"]
    assert head.split() == ["target", *named]
    assert rows[3].split() == ["sketch", "96.00", "96.00", "96.00", "96.00*", "96.00", "94.00", "94.99", "3", "90.00"]
    assert mean.split() == ["mean", "96.00", "94.00", "95.24"]  # (95.15 + 95.36 + 95.46 + 94.99) / 4
    assert alone == "held-out domains alone (*): 96.00, zero-shot 94.00; published zero-shot 94.67"
    assert "What a row means it does not" in lines(folds)[-2]
    others = [line.split()[1:] for line in lines(folds)[-len(NOTES) - len(OTHERS) : -len(NOTES)]]
    assert [row[-1] for row in others[1:5]] == ["77.81", "87.95", "89.42", "90.08"]
    columns = zip(*[map(float, row) for row in others[1:]], strict=True)
    assert all(sum(four) / 4 == pytest.approx(mean, abs=0.0051) for *four, mean in columns)


@pytest.fixture(scope="module")
def blurred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Domains of unlike sizes whose colours run into each other: nobody is always right, or as often in each."""
    root = tmp_path_factory.mktemp("blurred")
    for d, domain in enumerate(DOMAINS):
        for c, (name, colour) in enumerate(COLOURS.items()):
            (root / domain / name).mkdir(parents=True)
            draw = np.random.default_rng([d, c])
            for i in range(20 + 7 * d):
                pixel = np.clip(np.array(colour) + draw.normal(0, 110, 3), 0, 255).astype(np.uint8)
                Image.fromarray(np.tile(pixel, (4, 4, 1))).save(root / domain / name / f"{i:03}.png")
    return root


@dataclass
class ByHand:
    """What the released code does, written plainly: a list of clients in one process, one after the other."""

    made: Experiment
    cache: Path

    def __post_init__(self) -> None:
        assert self.made.data is not None
        owners = read_owners(self.made.data, seed=0, cache=self.cache)
        self.names, (self.target,) = list(owners.clients), list(owners.held_out)
        toy = ToyBackbone(ToyBackbone.Params())
        self.classes = sorted(COLOURS)
        texts = toy.encode_texts([f"a picture of a {name}" for name in self.classes])
        self.texts = functional.normalize(texts, dim=1)
        self.parts = {n: self._parts(toy, self._root / n.split("-")[0]) for n in [*self.names, self.target]}

    @property
    def _root(self) -> Path:
        assert self.made.data is not None
        return Path(str(self.made.data.params["root"]))

    def _parts(self, toy: ToyBackbone, domain: Path) -> dict[str, Examples]:
        files = [f for c in self.classes for f in sorted((domain / c).iterdir())]
        rows = [toy.encode_images(toy.preprocess(Image.open(f).convert("RGB"))[None]).half().float() for f in files]
        whole = Examples(torch.cat(rows), torch.tensor([self.classes.index(f.parent.name) for f in files]))
        if domain.name == self.target:
            return {"test": whole}
        order, n = torch.from_numpy(np.random.RandomState(0).permutation(len(files))), len(files)
        cuts = {"train": order[: int(0.6 * n)].sort().values, "val": order[int(0.6 * n) : int(0.6 * n) + int(0.2 * n)],
                "test": order[int(0.6 * n) + int(0.2 * n) : int(0.6 * n) + 2 * int(0.2 * n)]}  # fmt: skip
        return {part: Examples(whole.x[rows], whole.y[rows]) for part, rows in cuts.items()}

    def logits(self, gate: Tensors, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(x @ gate["hidden.weight"].T + gate["hidden.bias"])
        attention = torch.softmax(hidden @ gate["gate.weight"].T + gate["gate.bias"], dim=1)
        return 20 * functional.normalize(attention * x, dim=1) @ self.texts.T

    def trained(self, gate: Tensors, name: str, base: int, recipe: Recipe) -> Tensors:
        """One epoch: Adam made anew, each image against the prompts of its batch and each prompt against the images."""
        own = {k: t.clone().requires_grad_() for k, t in gate.items()}
        adam = torch.optim.Adam(own.values(), lr=recipe.lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2)
        data = self.parts[name]["train"]
        for rows in batches(len(data), recipe, generator(0, base, name, "batches")):
            pairs, target = self.logits(own, data.x[rows])[:, data.y[rows]], torch.arange(len(rows))
            loss = (functional.cross_entropy(pairs, target) + functional.cross_entropy(pairs.T, target)) / 2
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
        return {k: t.detach() for k, t in own.items()}

    def right(self, gate: Tensors | None, name: str, part: str) -> float:
        data = self.parts[name][part]
        found = functional.normalize(data.x, dim=1) @ self.texts.T if gate is None else self.logits(gate, data.x)
        return float((found.argmax(dim=1) == data.y).float().mean())

    def rounds(self, method: FedClip, count: int) -> Iterator[Tensors]:
        """The server's gate after each round: the plain mean of all clients', whatever their sizes."""
        agreed = (tuple(self.classes), self.texts, 20.0, 16, "0" * 64)
        gate = method.init(Setting(self.made, *agreed)).tensors["all"]
        for base in range(count):
            models = [self.trained(gate, name, base, method.recipe) for name in self.names]
            gate = {k: torch.stack([m[k] for m in models]).mean(dim=0) for k in gate}
            yield gate


@pytest.mark.parametrize("target", ["photo", "sketch"])
def test_a_fold_is_what_the_released_protocol_gives_written_plainly(blurred: Path, tmp_path: Path, target: str) -> None:
    params = {"preset": "paper", "lr": 0.02}  # fast enough that rounds differ
    made = planned(blurred, target, 5, [*SMALL, f"method.params={params}"])
    fold, outcome = parity.run(target, made, 5, tmp_path)
    hand = ByHand(made, tmp_path)
    gates = list(hand.rounds(FedClip(FedClip.Params.model_validate(params)), 6))
    validation = [fmean(hand.right(g, n, "val") for n in hand.names) for g in gates[:5]]
    best = max(range(5), key=lambda i: validation[i])  # the first of equal ones
    domains = {n.split("-")[0]: n for n in [*hand.names, target]}
    assert len({tuple(hand.right(g, n, "test") for n in domains.values()) for g in gates[:5]}) > 1
    assert fold.round == best + 1 and fold.validation == pytest.approx(validation[best])
    assert fold.test == pytest.approx({d: hand.right(gates[best], n, "test") for d, n in domains.items()})
    assert fold.zero_shot == pytest.approx({d: hand.right(None, n, "test") for d, n in domains.items()})
    for name, tensor in outcome.tensors["all"].items():
        assert torch.allclose(tensor, gates[5][name], atol=2e-3), name  # a tenth of one step of Adam: rounding grows


def test_one_command_runs_all_folds(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUORATE_CACHE", str(tmp_path))
    arguments = ["--root", str(root), "--rounds", "2", *(x for o in SMALL for x in ("--set", o))]
    done = CliRunner().invoke(parity.main, arguments)
    assert done.exit_code == 0, done.output
    assert _rows(done.output) == ["target", *DOMAINS, "mean", "held-out"]


def _rows(output: str) -> list[str]:
    """The first words of our table."""
    table = output[output.index("target ") : output.index(OTHERS[0][0])]
    return [row.split()[0] for row in table.strip().splitlines()]


def test_the_weights_are_those_of_a_local_file(
    root: Path, mini: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUORATE_CACHE", str(tmp_path))
    clip = ["model=mini", "pretrained=null", "quick_gelu=false"]
    changes = [SMALL[0], SMALL[2], *(f"model.backbone.params.{c}" for c in clip)]
    given = ["--root", str(root), "--rounds", "1", *(x for o in changes for x in ("--set", o))]
    done = CliRunner().invoke(parity.main, [*given, "--weights", str(mini)])
    assert done.exit_code == 0, done.output
    assert _rows(done.output) == ["target", *DOMAINS, "mean", "held-out"]
    with pytest.raises(SystemExit) as left:
        said_by(monkeypatch, [*given, "--weights", str(mini.with_name("none.pt"))])
    assert left.value.code == 2 and re.fullmatch(r"parity: .*none\.pt.*\n", capsys.readouterr().err)


def said_by(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    """The program, as from a shell."""
    monkeypatch.setattr("sys.argv", ["parity", *arguments])
    program(parity.main)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--root", "none", "--set", SMALL[1]], "none"),
        (["--set", "method.name=fedclap"], "did you mean 'fedclip'?"),
        (["--set", "seed"], "write --set path=value"),
        (["--rounds", "0"], "--rounds"),
    ],
)
def test_a_users_mistake_is_one_line_and_2(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUORATE_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        said_by(monkeypatch, arguments)
    out, err = capsys.readouterr()
    assert left.value.code == 2 and out == ""
    assert re.fullmatch(r"parity: [^\n]*\n", err) and says in err
