"""PerAda (arXiv 2302.06637) against its invariants, numbers derived here."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from infra.blobs import FileBlobs
from orchestrator.commits import Commits
from schemas.base import Choice
from schemas.errors import ConfigError
from schemas.experiment import Experiment
from schemas.messages import ALL
from tests.runs.here import run
from tests.runs.test_embedded import SYNC, events, small
from tests.toys import client, examples, experiment, paint, setting
from workers.distillation import distil, divergence, mean_logits
from workers.method import Client, Examples, Merged
from workers.methods.perada import PerAda
from workers.plugins import load
from workers.tensors import Tensors, fingerprint, unpack
from workers.training import fit, local_update

OF = setting(experiment(seed=3))
TEACHING = {"steps": 30, "teach_lr": 0.02, "teach_batch": 32}


def perada(**params: Any) -> PerAda:
    made: PerAda = load("workers.methods", Choice(name="perada", params={"adapter": "gate", **params}))
    return made


def one(method: PerAda, **changes: Any) -> Client:
    return client(OF, "ann", method.init(OF).tensors[ALL], **changes)


def away(a: Tensors, b: Tensors) -> float:
    return float(sum((a[k] - b[k]).square().sum() for k in a) ** 0.5)


def merged(method: PerAda, members: int = 3, count: int = 200) -> Merged:
    """Members that have gone different ways from version 0, and the mean of them."""
    start, draw = method.init(OF).tensors[ALL], torch.Generator().manual_seed(5)
    sent = tuple({k: t + torch.randn(t.shape, generator=draw) for k, t in start.items()} for _ in range(members))
    mean = {k: torch.stack([m[k] for m in sent]).mean(dim=0) for k in start}
    return Merged(0, OF, ALL, mean, sent, examples(OF, count, 99).x)


# --- the client


def test_without_a_pull_the_personal_adapter_is_trained_as_if_alone() -> None:
    method = perada(pull=0, lr=0.01)
    asked = one(method)
    alone = method.restore(OF, ALL, asked.incoming)
    fit(alone, asked.train, method.params, asked.generator("personal"))
    assert fingerprint(method.train(asked).private) == fingerprint(alone.state_dict())


def test_the_stronger_the_pull_the_nearer_the_personal_adapter_stays() -> None:
    distances = []
    for pull in (0.0, 0.1, 1.0, 100.0):
        method = perada(pull=pull, lr=1e-3, epochs=20)
        asked = one(method)
        distances.append(away(method.train(asked).private, asked.incoming))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < distances[0] / 20


def test_the_pull_has_the_gradient_two_lambda_times_the_way_from_the_incoming_model() -> None:
    # No images: the loss is the pull alone, and one step of plain gradient descent (Adam with betas 0 and a huge eps
    # moves by lr / eps * gradient) from v gives v - rate * 2 * lambda * (v - w).
    method = perada(pull=0.3, optimiser="adam", betas=(0, 0), eps=1e6, lr=1e5, epochs=1, weight_decay=0.0)
    asked = one(method)
    start = {k: t + 0.01 for k, t in asked.incoming.items()}
    same = Examples(torch.zeros(32, OF.dim), torch.zeros(32, dtype=torch.int64))  # the same logits whatever the gate
    trained = method.train(one(method, train=same, private=start)).private
    for k, t in trained.items():
        assert torch.allclose(t, start[k] - 0.1 * 2 * 0.3 * (start[k] - asked.incoming[k]), atol=1e-6)


def test_what_travels_is_the_other_adapter_trained_plainly_from_the_incoming_model() -> None:
    method = perada(lr=0.01)
    asked = one(method, private={k: t + 1 for k, t in method.init(OF).tensors[ALL].items()})
    update = method.train(asked)
    plain = local_update(asked, method.restore(OF, ALL, asked.incoming), method.params)
    assert fingerprint(update.tensors) == fingerprint(plain.tensors)
    assert update.weight == 1.0, "the mean is unweighted"
    assert not any(torch.equal(update.private[k] - asked.incoming[k], update.tensors[k]) for k in update.tensors)


# --- the worker that distils


def test_the_teacher_is_the_mean_of_logits_and_not_the_mean_of_weights() -> None:
    found = merged(perada())
    models = [perada().restore(OF, ALL, m) for m in found.members]
    teacher = mean_logits(models, found.public)
    with torch.no_grad():
        expected = (models[0](found.public) + models[1](found.public) + models[2](found.public)) / 3
        of_weights = perada().restore(OF, ALL, found.model)(found.public)
    assert torch.allclose(teacher, expected, atol=1e-5) and not teacher.requires_grad
    assert float((teacher - of_weights).abs().max()) > 1e-3


def test_the_divergence_of_two_logits_by_hand() -> None:
    # Teacher (ln 3, 0): p = 3/4, 1/4; student (0, 0): 1/2, 1/2. At temperature 2 the odds are sqrt(3) instead of 3.
    teacher = torch.tensor([[3.0, 1.0]]).log()
    for temperature, odds in ((1.0, 3.0), (2.0, math.sqrt(3))):
        p, q = odds / (1 + odds), 1 / (1 + odds)
        expected = p * math.log(2 * p) + q * math.log(2 * q)
        assert float(divergence(torch.zeros(1, 2), teacher, temperature)) == pytest.approx(expected, abs=1e-6)
    assert float(divergence(teacher, teacher)) == pytest.approx(0, abs=1e-7)


def test_the_loss_falls_over_the_first_steps_and_the_same_seed_gives_the_same_bytes() -> None:
    found = merged(perada())
    models = [perada().restore(OF, ALL, m) for m in found.members]
    teacher = mean_logits(models, found.public)

    def losses(seed: int) -> tuple[list[float], str]:
        student = perada().restore(OF, ALL, found.model)
        draw = torch.Generator().manual_seed(seed)
        steps = distil(student, found.public, teacher, steps=30, batch=200, lr=0.01, temperature=1, generator=draw)
        return list(steps), fingerprint(student.state_dict())

    first, again, other = losses(1), losses(1), losses(2)
    assert all(loss >= 0 for loss in first[0]) and len(first[0]) == 30
    assert first[0][9] < first[0][0] / 2
    assert first == again and first[1] != other[1]


def test_the_steps_are_adam_on_a_cosine_over_passes_drawn_anew() -> None:
    # Against torch's own, over two passes and a half of 50 in batches of 16; of a batch the mean, not the sum.
    found, temperature = merged(perada(), count=50), 2.0
    models = [perada().restore(OF, ALL, m) for m in found.members]
    teacher, (ours, theirs) = mean_logits(models, found.public), (perada().restore(OF, ALL, found.model) for _ in "ab")
    draw = torch.Generator().manual_seed(4)
    losses = list(
        distil(ours, found.public, teacher, steps=10, batch=16, lr=0.02, temperature=temperature, generator=draw)
    )
    draw, adam = torch.Generator().manual_seed(4), torch.optim.Adam(theirs.parameters(), lr=0.02)
    falls = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 10)
    passes = torch.cat([torch.randperm(50, generator=draw) for _ in range(3)])
    starts = [start + 50 * n for n in range(3) for start in (0, 16, 32, 48)][:10]
    for loss, start in zip(losses, starts, strict=True):
        chosen = passes[start : min(start + 16, (start // 50 + 1) * 50)]
        p, q = ((z / temperature).softmax(dim=1) for z in (teacher[chosen], theirs(found.public[chosen])))
        expected = (p * (p / q).log()).sum(dim=1).mean()
        adam.zero_grad()
        expected.backward()  # type: ignore[no-untyped-call]
        adam.step()
        falls.step()
        assert loss == pytest.approx(float(expected.detach()), rel=1e-4)
    assert all(torch.allclose(t, theirs.state_dict()[k], atol=1e-5) for k, t in ours.state_dict().items())


def test_a_fifth_of_the_images_judges_and_is_not_distilled_on() -> None:
    # One look, at the end: what is kept is where all steps led to, and other images to judge by lead nowhere else.
    method = perada(**{**TEACHING, "look": 30})
    found = merged(method)
    order = torch.randperm(200, generator=found.generator("split"))
    other = found.public.clone()
    other[order[:40]] = examples(OF, 40, 7).x
    one, two = (method.refine(replace(found, public=public)) for public in (found.public, other))
    assert fingerprint(one) == fingerprint(two) != fingerprint(found.model)
    other[order[40]] = 0
    assert fingerprint(method.refine(replace(found, public=other))) != fingerprint(one)


def disagreement(method: PerAda, found: Merged, tensors: Tensors) -> float:
    order = torch.randperm(len(found.public), generator=found.generator("split"))
    judged = found.public[order[: len(order) // 5]]
    teacher = mean_logits([method.restore(OF, ALL, m) for m in found.members], judged)
    with torch.no_grad():
        return float(divergence(method.restore(OF, ALL, tensors)(judged), teacher))


@pytest.mark.parametrize("lr", [1e-3, 0.02, 10.0])
def test_the_model_that_is_kept_never_agrees_less_with_its_teachers_than_the_merged_one(lr: float) -> None:
    method = perada(**{**TEACHING, "teach_lr": lr})
    found = merged(method)
    before, after = (disagreement(method, found, t) for t in (found.model, method.refine(found)))
    assert after <= before
    if lr == 0.02:
        assert after < 0.75 * before, "and it can agree better"
    if lr == 10.0:  # far too fast: nothing that it comes to is better
        assert fingerprint(method.refine(found)) == fingerprint(found.model)


def test_the_best_of_all_looks_is_kept_and_not_the_last() -> None:
    method = perada(**{**TEACHING, "teach_lr": 0.5, "look": 1})
    found = merged(method)
    order = torch.randperm(200, generator=found.generator("split"))
    student, models = method.restore(OF, ALL, found.model), [method.restore(OF, ALL, m) for m in found.members]
    shown = found.public[order[40:]]
    looks: list[tuple[float, str]] = [(disagreement(method, found, found.model), fingerprint(found.model))]
    for _ in distil(student, shown, mean_logits(models, shown), steps=30, batch=32, lr=0.5, temperature=1,
                    generator=found.generator("batches")):  # fmt: skip
        looks.append((disagreement(method, found, student.state_dict()), fingerprint(student.state_dict())))
    assert 0 < looks.index(min(looks)) < 29, "too fast to end at its best"
    assert fingerprint(method.refine(found)) == min(looks)[1]


def test_one_teacher_that_is_the_student_changes_nothing() -> None:
    method = perada(**TEACHING)
    found = merged(method, members=1)
    assert fingerprint(method.refine(found)) == fingerprint(found.members[0])


@pytest.mark.parametrize("count", [0, 1, 4])
def test_without_public_images_to_judge_by_the_merged_model_is_kept(count: int) -> None:
    method = perada(**TEACHING)
    assert fingerprint(method.refine(merged(method, count=count))) == fingerprint(merged(method).model)


def test_only_the_first_versions_are_distilled() -> None:
    assert [perada(distilled=2).refines(version) for version in (1, 2, 3)] == [True, True, False]


# --- whole runs


class Unlabelled:
    """Images that are nobody's: whoever asks for anything but their files gets an error."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self.paths = paths

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} of public images was read")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("images"))


def planned(images: Path, params: dict[str, Any] | None = None, **changes: Any) -> Experiment:
    public = {"name": "folder", "params": {"root": str(images)}}
    method = {"name": "perada", "params": {"lr": 0.02, "teach_batch": 16, "steps": 20, **(params or {})}}
    return small(images, **{"method": method, "public": public, **changes})


def test_no_label_of_a_public_image_is_read(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workers.datasets.folder import Folder

    class Nobodys(Folder):
        class Params(Folder.Params):
            """As a folder."""

        def images(self, cache: Path) -> Any:
            return Unlabelled(super().images(cache).paths)

    monkeypatch.setattr("tests.runs.plugins.Nobodys", Nobodys, raising=False)
    public = {"name": "tests.runs.plugins:Nobodys", "params": {"root": str(images)}}
    outcome = run(planned(images, public=public), tmp_path)
    assert all(e.facts["model"] for e in events(outcome.events, "refined"))


def test_with_nothing_distilled_a_run_gives_the_plain_mean_bit_for_bit(images: Path, tmp_path: Path) -> None:
    fedavg = {"name": "fedavg", "params": {"lr": 0.02, "weight": "uniform"}}
    plain = run(small(images, method=fedavg), tmp_path / "plain").report
    ours = run(planned(images, {"distilled": 0}, public=None), tmp_path / "ours")
    assert ours.report.adapter_sha256 == plain.adapter_sha256
    assert not events(ours.events, "refined")


def test_with_nothing_distilled_it_trains_inside_the_image_tower_too(images: Path, tmp_path: Path) -> None:
    params = {"adapter": "lora", "distilled": 0}
    outcome = run(planned(images, params, public=None, rounds={**SYNC, "versions": 1}), tmp_path)
    assert outcome.report.status == "finished" and outcome.report.accuracy.mean is not None


def test_no_personal_adapter_is_in_what_travels_and_it_stays_while_its_owner_rests(
    images: Path, tmp_path: Path
) -> None:
    run(planned(images, rounds={**SYNC, "versions": 6, "in_flight": 2, "quorum": 2, "floor": 2}), tmp_path)
    blobs = FileBlobs(tmp_path / "blobs")
    made = Commits("r", blobs).all()
    rested = 0
    for before, after in pairwise(made):
        resting = set(before.private) - {a.client for a in after.counted}
        rested += len(resting)
        assert all(after.private[c] == before.private[c] for c in resting)
    assert rested > 0
    own = [fingerprint(unpack(blobs.get(ref))) for ref in made[-1].private.values()]
    models = [fingerprint(unpack(blobs.read(key, limit=10**6))) for key in blobs.keys("runs/r/models/")]
    assert len(set(own)) == 4 and set(own).isdisjoint(models)


def test_it_is_refused_without_public_images_in_one_sentence(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name a data set of some in `public`"):
        run(planned(images, public=None), tmp_path)
