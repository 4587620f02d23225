"""What every method keeps to: those found in the folder, and one that lies elsewhere and is named by dotted path."""

import math
from pathlib import Path

import pytest
import torch

from schemas.base import Choice
from schemas.errors import PluginError
from schemas.messages import ALL
from tests.toys import client, examples, experiment, setting
from workers.method import Method, State, Update
from workers.pipeline import of_method
from workers.plugins import about, load, names
from workers.readout import Cosine
from workers.setting import Setting
from workers.tensors import fingerprint, pack, unpack
from workers.training import accuracy

PACKAGE = "workers.methods"
OUTSIDE = "outside_method:Nudge"
SIZES = {"a": 40, "b": 33, "c": 7}
SOURCE = '''
"""A method that lives outside of the repository."""

import torch
from torch import nn

from schemas.base import Frozen
from workers.adapters.linear import LinearHead
from workers.method import Client, Method, Update
from workers.setting import Setting
from workers.training import Recipe, local_update


class Nudge(Method):
    """Trains the linear head with small steps."""

    paper = "none"
    deviations = ()

    class Params(Frozen):
        """lr: of the client."""

        lr: float = 1e-3

    def build(self, setting: Setting, group: str, generator: torch.Generator) -> nn.Module:
        """The head."""
        return LinearHead(setting.texts, setting.scale)

    def train(self, client: Client) -> Update:
        """One epoch."""
        module = self.restore(client.setting, client.group, client.incoming)
        return local_update(client, module, Recipe(lr=self.params.lr))
'''


@pytest.fixture(params=[*names(PACKAGE), OUTSIDE])
def choice(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Choice:
    if request.param == OUTSIDE:
        (tmp_path / "outside_method.py").write_text(SOURCE)
        monkeypatch.syspath_prepend(tmp_path)
    return Choice(name=request.param)


@pytest.fixture
def method(choice: Choice) -> Method:
    loaded: Method = load(PACKAGE, choice)
    return loaded


@pytest.fixture
def of() -> Setting:
    return setting(experiment(seed=3))


def _round(method: Method, of: Setting, state: State, base: int) -> tuple[State, dict[str, Update]]:
    incoming = state.tensors[ALL]
    updates = {name: method.train(client(of, name, incoming, base=base)) for name in ("a", "b", "c")}
    fold = method.fold(load("orchestrator.aggregators", Choice(name="mean")), state, ALL)
    for name, update in updates.items():
        fold.add(name, update.tensors, update.weight, 1.0)
    return method.merge(state, {ALL: fold.result()}, 1.0), updates


def test_three_clients_train_for_two_versions(method: Method, of: Setting) -> None:
    state = method.init(of)
    for base in range(2):
        state, updates = _round(method, of, state, base)
        for update in updates.values():
            assert update.weight > 0
            assert all(bool(t.isfinite().all()) for t in update.tensors.values())
            assert all(math.isfinite(v) for v in update.metrics.values())
            assert method.traits.trains == any(bool(t.any()) for t in (update.tensors | update.private).values())


def test_an_update_fits_the_model_it_was_trained_from(method: Method, of: Setting) -> None:
    incoming = method.init(of).tensors[ALL]
    update = method.train(client(of, "a", incoming))
    named = {k: (t.shape, t.dtype) for k, t in update.tensors.items()}
    assert named == {k: (t.shape, t.dtype) for k, t in method.form(incoming).items()}
    assert not method.implausible(update.tensors, incoming)
    assert all(t.dtype == torch.float32 and t.device.type == "cpu" for t in update.tensors.values())


def test_the_same_client_at_the_same_base_gives_the_same_bytes(choice: Choice, of: Setting) -> None:
    def bytes_of(private_state_first: bool) -> str:
        method: Method = load(PACKAGE, choice)
        incoming = method.init(of).tensors[ALL]
        if private_state_first:  # other work before, and other global random numbers, leave no trace
            torch.rand(7)
            method.train(client(of, "z", incoming))
        update = method.train(client(of, "a", incoming, base=5))
        return fingerprint(update.tensors | update.private)

    assert bytes_of(False) == bytes_of(True)


def test_the_clients_of_one_task_end_where_each_would_alone(
    method: Method, of: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    incoming = method.init(of).tensors[ALL]
    clients = [client(of, name, incoming, train=examples(of, size, size)) for name, size in SIZES.items()]
    for one, found in zip(clients, method.train_many(clients), strict=True):
        alone = method.train(one)
        assert isinstance(found, Update), found
        assert (found.weight, found.metrics) == (alone.weight, pytest.approx(alone.metrics, abs=1e-5))
        for mine, theirs in ((found.tensors, alone.tensors), (found.private, alone.private)):
            assert mine.keys() == theirs.keys()
            assert all(torch.allclose(mine[k], t, atol=1e-5, rtol=0) for k, t in theirs.items())
    assert "one by one" not in capsys.readouterr().out


def test_training_leaves_the_incoming_model_alone(method: Method, of: Setting) -> None:
    incoming = method.init(of).tensors[ALL]
    before = fingerprint(incoming)
    method.train(client(of, "a", incoming))
    assert fingerprint(incoming) == before


def test_private_state_keeps_off_the_names_of_error_feedback(method: Method, of: Setting) -> None:
    update = method.train(client(of, "a", method.init(of).tensors[ALL]))
    assert of_method(update.private) == update.private


def test_the_state_survives_saving(method: Method, of: Setting) -> None:
    state, _ = _round(method, of, method.init(of), 0)
    groups = {group: unpack(pack(tensors)) for group, tensors in state.tensors.items()}
    loaded = State(tensors=groups, server=unpack(pack(state.server)), assignment=dict(state.assignment))
    one, two = (_round(method, of, s, 1)[0] for s in (state, loaded))
    assert fingerprint(one.tensors[ALL]) == fingerprint(two.tensors[ALL])


def test_updates_that_sum_merge_like_their_mean(method: Method, of: Setting) -> None:
    if not (method.traits.sums and method.traits.aggregates) or method.traits.sees_each:
        return
    state = method.init(of)
    merged, updates = _round(method, of, state, 0)
    total = sum(u.weight for u in updates.values())
    for name, t in merged.tensors[ALL].items():
        mean = sum(u.tensors[name].double() * u.weight for u in updates.values()) / total
        assert torch.allclose(t.double(), state.tensors[ALL][name].double() + mean, atol=1e-6)


def test_version_0_answers_almost_like_zero_shot(method: Method, of: Setting) -> None:
    # All shipped methods start from zero-shot; the untrained gate turns a feature by about 8 degrees at most.
    data = client(of, "a", {}).train
    model = method.personal(of, ALL, method.init(of).tensors[ALL], {})
    assert accuracy(model, data) == pytest.approx(accuracy(Cosine(of.texts, of.scale), data), abs=0.1)


def test_the_initial_state_depends_on_the_seed_only(choice: Choice, of: Setting) -> None:
    first, again = (load(PACKAGE, choice).init(of).tensors[ALL] for _ in range(2))
    assert fingerprint(first) == fingerprint(again)


def test_unknown_params_are_refused(choice: Choice) -> None:
    with pytest.raises(PluginError, match="no_such_param"):
        load(PACKAGE, Choice(name=choice.name, params={"no_such_param": 1}))


def test_every_method_says_what_it_is_without_being_imported() -> None:
    said = list(about(PACKAGE))
    assert [a.name for a in said] == list(names(PACKAGE))
    for a in said:
        assert a.summary, f"{a.name} has no docstring"
        assert a.facts["paper"], f"{a.name} names no source"
        assert isinstance(a.facts["deviations"], tuple), f"{a.name} does not list its deviations"


@pytest.mark.parametrize(
    ("params", "word"), [({"lr": 0}, "lr"), ({"preset": "papre"}, "preset"), ({"epochs": 0}, "epochs")]
)
def test_wrong_params_are_named(params: dict[str, object], word: str) -> None:
    with pytest.raises(PluginError, match=word):
        load(PACKAGE, Choice(name="fedclip", params=params))
