"""Ridge regression from sums of moments (AFL, arXiv 2405.16240): the solution of all images in one place."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.aggregators.mean import Mean
from orchestrator.commits import Commits
from orchestrator.plan import plan
from schemas.errors import ConfigError
from schemas.messages import ALL
from tests.runs.here import run, runtime
from tests.toys import examples, experiment, paint, setting
from workers.codecs.raw import Raw
from workers.method import Client, Examples, State, Update
from workers.methods.ridge import HIGH, LOW, Ridge, moments
from workers.pipeline import Label, open_update, seal, write_update
from workers.setting import Setting
from workers.tensors import Tensors, pack, unpack

IMAGES = 60
ROUNDS = {"versions": 1, "in_flight": 2, "quorum": 2, "floor": 2, "max_staleness": 0}


def _by_hand(data: Examples, of: Setting, penalty: float) -> np.ndarray:
    """argmin ||Z W - Y||^2 + penalty ||W - W0||^2, from the images themselves: zero where its gradient is."""
    x = data.x.double().numpy()
    z = np.hstack([x / np.linalg.norm(x, axis=1, keepdims=True), np.ones((len(x), 1))])
    y = np.eye(len(of.classes))[data.y.numpy()]
    start = np.vstack([of.texts.double().numpy().T, np.zeros((1, len(of.classes)))])
    return np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T @ y + penalty * start)


def _head(state: State) -> np.ndarray:
    model = state.tensors[ALL]
    return np.vstack([model["weight"].double().numpy().T, model["bias"].double().numpy()[None]])


def _sent(method: Ridge, of: Setting, name: str, data: Examples) -> Tensors:
    """What arrives of a client, having been an update blob on the way."""
    one = Client(name, 0, of, method.init(of).tensors[ALL], data, examples(of, 0, 0))
    update = method.train(one)
    codec = Raw(Raw.Params())
    sealed = seal(one, update, private={}, codec=codec)
    return open_update(write_update(sealed.packed, Label(name, update.weight, {}, None, 0)), codec)[0]


def _merged(method: Ridge, of: Setting, versions: list[list[tuple[str, Tensors]]]) -> State:
    state = method.init(of)
    for arrived in versions:
        fold = method.fold(Mean(Mean.Params()), state, ALL)
        for i, (name, update) in enumerate(arrived):
            fold.add(name, update, 10.0**i, 1 / (1 + i))  # weights and discounts have no say
        state = method.merge(state, {ALL: fold.result()}, 1.0)
        state = State(state.tensors, unpack(pack(state.server)), state.assignment)  # as a commit keeps it
    return state


@settings(max_examples=60, deadline=None)
@given(
    owners=st.lists(st.integers(0, 7), min_size=IMAGES, max_size=IMAGES),
    order=st.permutations(range(8)),
    cuts=st.sets(st.integers(1, 7)),
    again=st.lists(st.integers(0, 7), max_size=4),
    penalty=st.sampled_from([1e-3, 1.0, 30.0]),
)
def test_whoever_holds_what_and_comes_when_it_is_the_solution_of_all_images_together(
    owners: list[int], order: list[int], cuts: set[int], again: list[int], penalty: float
) -> None:
    of, method = setting(), Ridge(Ridge.Params(penalty=penalty))
    data = examples(of, IMAGES, 5)
    mine = {i: torch.tensor([j for j, owner in enumerate(owners) if owner == i]) for i in sorted(set(owners))}
    sent = {i: (f"c{i}", _sent(method, of, f"c{i}", Examples(data.x[j], data.y[j]))) for i, j in mine.items()}
    ends = [0, *sorted(cuts), 8]
    versions = [[sent[i] for i in order[a:b] if i in sent] for a, b in pairwise(ends)]
    versions[-1] += [sent[i] for i in again if i in sent]  # some answer twice, in one version or in two
    found = _head(_merged(method, of, [v for v in versions if v]))
    assert np.abs(found - _by_hand(data, of, penalty)).max() < 1e-6


def test_in_one_float32_each_the_moments_would_not_do() -> None:
    # Features that lie close together, as those of one domain do: the smallest eigenvalues of Z^T Z are near lambda, so
    # what float32 takes from entries of size N = 2000, 2000 * 2^-24 = 1e-4, is far more than lambda = 1e-3 forgives.
    of, method = setting(), Ridge(Ridge.Params(penalty=1e-3))
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (2000,), generator=generator)
    near = 10 + 0.05 * torch.randn(2000, of.dim, generator=generator) + 0.05 * of.texts[labels]
    data = Examples(near, labels)
    update = _sent(method, of, "a", data)
    exact = _by_hand(data, of, 1e-3)
    whole = _head(_merged(method, of, [[("a", update)]]))
    single = _head(_merged(method, of, [[("a", update | {LOW: torch.zeros_like(update[LOW])})]]))
    scale = np.abs(exact).max()
    assert np.abs(whole - exact).max() < 1e-6 * scale
    assert np.abs(single - exact).max() > 1e-4 * scale


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 50))
def test_two_float32_keep_48_bits_of_a_float64(seed: int, count: int) -> None:
    # high is the nearest float32, so what is left is at most 2^-24 of it and low errs by at most 2^-24 of that.
    of = setting()
    data = examples(of, count, seed)
    update = _sent(Ridge(Ridge.Params()), of, "a", data)
    exact = moments(data, len(of.classes))
    assert torch.all((update[HIGH].double() + update[LOW].double() - exact).abs() <= exact.abs() * 2.0**-47)


def test_two_images_by_hand() -> None:
    # f = (3, 4) of class 0 and (0, 2) of class 1: rows z = (0.6, 0.8, 1) and (0, 1, 1).
    data = Examples(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([0, 1]))
    gram = [0.36, 0.48, 0.6, 1.64, 1.8, 2.0]  # 0.6^2, 0.6 * 0.8, 0.6, 0.8^2 + 1, 0.8 + 1, two images
    cross = [0.6, 0, 0.8, 1, 1, 1]  # rows of Z^T Y: the first column is the first image, the second the second
    assert moments(data, 2).tolist() == pytest.approx([*gram, *cross], abs=1e-12)


def test_a_great_penalty_leaves_the_class_texts_and_none_at_all_is_refused() -> None:
    of, method = setting(), Ridge(Ridge.Params(penalty=1e9))
    state = _merged(method, of, [[("a", _sent(method, of, "a", examples(of, 50, 0)))]])
    assert torch.allclose(state.tensors[ALL]["weight"], of.texts, atol=1e-6)
    with pytest.raises(ValueError, match="penalty"):
        Ridge.Params(penalty=0)


def test_moments_take_up_what_the_specification_counts() -> None:
    # 512 features and 7 classes: 134,912 numbers; the intercept adds 513 to the triangle and 7 to the rest.
    method = Ridge(Ridge.Params())
    form = method.form({"weight": torch.empty(7, 512), "bias": torch.empty(7)})
    assert {k: t.numel() for k, t in form.items()} == dict.fromkeys((HIGH, LOW), 134_912 + 513 + 7)


# --- what nobody can have measured

SOUND = moments(examples(setting(), 20, 0), 3)


def _told(values: torch.Tensor) -> str:
    of, method = setting(), Ridge(Ridge.Params())
    update = {HIGH: values.float(), LOW: (values - values.float().double()).float()}
    return method.implausible(update, method.init(of).tensors[ALL])


def _with(index: int, value: float) -> torch.Tensor:
    changed = SOUND.clone()
    changed[index] = value
    return changed


COUNT = 17 * 18 // 2 - 1
"""Where the number of images stands: the end of a triangle of 17 rows."""


def test_honest_moments_are_plausible() -> None:
    assert float(SOUND[COUNT]) == 20 and _told(SOUND) == ""


@pytest.mark.parametrize(
    "values",
    [_with(COUNT, 0.0), _with(COUNT, -20.0), _with(COUNT, 1e13), _with(0, 20.1), _with(0, -1e30), _with(-1, 21.0)],
)
def test_moments_beyond_the_number_of_images_are_not(values: torch.Tensor) -> None:
    assert "images" in _told(values)


def test_whatever_passes_has_a_solution() -> None:
    # A Gram matrix that no images have: -lambda where the eigenvalues are, so that a plain solve would divide by zero.
    of, method = setting(), Ridge(Ridge.Params(penalty=1.0))
    rows = of.dim + 1
    gram = -torch.eye(rows, dtype=torch.float64)
    gram[-1, -1] = 1.0
    upper = torch.triu_indices(rows, rows)
    values = torch.cat([gram[upper[0], upper[1]], torch.ones(rows * 3, dtype=torch.float64)])
    assert _told(values) == ""
    update = {HIGH: values.float(), LOW: torch.zeros(len(values))}
    assert np.isfinite(_head(_merged(method, of, [[("a", update)]]))).all()


# --- in a plan


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"codec": {"name": "fp16"}}, "sends exact numbers, so codec fp16 would falsify them"),
        ({"codec": {"name": "int8"}}, "sends exact numbers, so codec int8 would falsify them"),
        ({"transforms": [{"name": "clip", "params": {"norm": 1.0}}]}, "transforms would falsify them"),
        ({"rounds": {**ROUNDS, "max_staleness": 1, "staleness": "sqrt"}}, "may not be discounted"),
        ({"aggregator": {"name": "median"}}, "adds up by itself"),
    ],
)
def test_moments_are_never_compressed_changed_or_discounted(changes: dict[str, object], says: str) -> None:
    asked: dict[str, object] = {"method": {"name": "ridge"}, "rounds": ROUNDS, **changes}
    with pytest.raises(ConfigError, match=says):
        plan(experiment(Path("images"), **asked))


# --- as a run


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("images"))


def test_one_version_is_all_there_is_to_learn(images: Path, tmp_path: Path) -> None:
    heads = []
    for versions in (1, 3):
        asked = experiment(images, method={"name": "ridge"}, rounds={**ROUNDS, "versions": versions})
        heads.append(run(asked, tmp_path / str(versions)).tensors[ALL])
    assert all(torch.equal(heads[0][k], heads[1][k]) for k in heads[0])


def test_who_comes_in_the_second_version_changes_nothing_of_the_end(images: Path, tmp_path: Path) -> None:
    whole = run(experiment(images, method={"name": "ridge"}, rounds=ROUNDS), tmp_path / "whole").tensors[ALL]
    one_by_one = {"versions": 6, "in_flight": 1, "quorum": 1, "floor": 1, "max_staleness": 0}
    outcome = run(experiment(images, method={"name": "ridge"}, rounds=one_by_one), tmp_path / "one")
    assert {c for c, share in outcome.report.ledger.items() if share.accepted} == {"flat-0", "noisy-0"}
    commit = Commits("r", runtime(tmp_path / "one").blobs).last()
    assert commit is not None and commit.server is not None
    for k, t in whole.items():
        assert torch.allclose(outcome.tensors[ALL][k], t, atol=1e-6, rtol=0)


def test_a_client_that_lies_about_its_moments_is_rejected_and_the_run_goes_on(images: Path, tmp_path: Path) -> None:
    method = {"name": "tests.papers.test_ridge:Liar"}
    rounds = {**ROUNDS, "quorum": 1, "floor": 1}
    report = run(experiment(images, method=method, rounds=rounds), tmp_path).report
    assert report.status == "finished"
    assert (report.ledger["noisy-0"].rejected, report.ledger["flat-0"].accepted) == (1, 1)


class Liar(Ridge):
    """Ridge with one client who sends what cannot be."""

    class Params(Ridge.Params):
        """As of ridge."""

    def train(self, client: Client) -> Update:
        """Honest, but for one."""
        update = super().train(client)
        if client.name == "noisy-0":
            update.tensors[HIGH][0] = -1e30
        return update
