"""From a file to a plan: what a user may get wrong is told in one line that names the key and the way out."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from infra.documents import LARGEST
from orchestrator.compatibility import compatible
from orchestrator.plan import Plan, plan, read_experiment
from schemas.base import Choice, Frozen
from schemas.complaints import parse
from schemas.errors import ConfigError, PluginError
from schemas.experiment import Experiment, SiteData
from workers.method import Client, Method, Traits, Update
from workers.setting import Setting
from workers.tensors import Tensors

MINIMAL = "name: demo\ndata: {name: shapes}\nmethod: {name: fedclip}\n"
HERE = "tests.unit.test_plan"


class Exact(Method):
    """A method whose updates are exact numbers."""

    traits = Traits(lossy=False)

    class Params(Frozen):
        """No parameters."""

    def build(self, setting: Setting, group: str, generator: torch.Generator) -> nn.Module:
        return nn.Linear(setting.dim, len(setting.classes))

    def train(self, client: Client) -> Update:
        return Update(tensors=client.incoming, weight=1.0)


class Unsummable(Exact):
    """A method whose updates may not be added."""

    traits = Traits(sums=False)

    class Params(Frozen):
        """No parameters."""


class Undiscounted(Exact):
    """A method whose updates may not be weighted by staleness."""

    traits = Traits(discounted=False)

    class Params(Frozen):
        """No parameters."""


class Pooled(Exact):
    """A method that trains on the images of all clients."""

    traits = Traits(pools=True)

    class Params(Frozen):
        """No parameters."""


class Adding(Exact):
    """A method that adds up by itself."""

    traits = Traits(aggregates=False)

    class Params(Frozen):
        """No parameters."""


class Untrained(Exact):
    """A method that only evaluates."""

    traits = Traits(trains=False)

    class Params(Frozen):
        """No parameters."""


class Keep:
    """An aggregator that does not add."""

    needs_sums = False

    class Params(Frozen):
        """No parameters."""

    def __init__(self, params: Params) -> None: ...


class Features:
    """A backbone that makes features and shows no tower."""

    class Params(Frozen):
        """No parameters."""

    def __init__(self, params: Params) -> None: ...


class Nothing:
    """A transform that changes nothing."""

    class Params(Frozen):
        """No parameters."""

    def __init__(self, params: Params) -> None: ...

    def on_client(self, tensors: Tensors, kept: Tensors, generator: torch.Generator) -> tuple[Tensors, Tensors]:
        return tensors, {}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str | bytes) -> Path:
        path = tmp_path / "x.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def _refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        plan(read_experiment(path, overrides))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


# --- the file


def test_a_minimal_file_is_an_experiment_with_all_defaults(write: Any) -> None:
    made = plan(read_experiment(write(MINIMAL)))
    assert (made.experiment.rounds.quorum, made.experiment.aggregator.name, made.versions) == (6, "mean", 20)


@pytest.mark.parametrize("file", sorted(p.name for p in (Path(__file__).parents[2] / "experiments").glob("*.yaml")))
def test_the_experiments_of_the_project_are_plans(file: str) -> None:
    path = Path(__file__).parents[2] / "experiments" / file
    made = plan(read_experiment(path))
    assert made.experiment.name == path.stem


def test_a_resolved_experiment_reads_as_the_same_experiment(write: Any) -> None:
    asked = read_experiment(Path(__file__).parents[2] / "experiments" / "demo.yaml")
    assert read_experiment(write(yaml.safe_dump(asked.model_dump(mode="json")))) == asked


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MINIMAL + "quorom: 3\n", "unknown key 'quorom'"),
        (MINIMAL + "codek: {name: raw}\n", "did you mean 'codec'?"),
        (MINIMAL + "rounds: {quorom: 3}\n", "unknown key 'rounds.quorom', did you mean 'quorum'?"),
        (MINIMAL + "codec: {nam: raw}\n", "unknown key 'codec.nam', did you mean 'name'?"),
        (MINIMAL + "transforms: [{name: clip, parms: {}}]\n", "did you mean 'params'?"),
        (MINIMAL + "model: {backbone: {name: tiny, parms: {}}}\n", "did you mean 'params'?"),
        (MINIMAL + "simulate: {latency: {name: none, parms: {}}}\n", "did you mean 'params'?"),
        (MINIMAL.replace("name: shapes", "name: shapes, holdout: [a]"), "did you mean 'hold_out'?"),
        (MINIMAL + "seed: soon\n", "seed: Input should be a valid integer"),
        (MINIMAL + "seed: -1\n", "seed: "),
        (MINIMAL.replace("{name: fedclip}", "fedclip"), "method: "),
        (MINIMAL + "rounds: [1, 2]\n", "rounds: "),
        (MINIMAL + "rounds: {staleness: cubic}\n", "rounds.staleness: no staleness 'cubic' (there are: constant"),
        (MINIMAL + "rounds: {staleness: {name: polinomial}}\n", "did you mean 'polynomial'?"),
        (MINIMAL + "rounds: {staleness: {name: hinge, parms: {}}}\n", "did you mean 'params'?"),
        (
            MINIMAL + "rounds: {staleness: {name: hinge, params: {c: 1}}}\n",
            "rounds.staleness.hinge.params.c'; known: a",
        ),
        (
            MINIMAL + "rounds: {staleness: {name: sqrt, params: {a: 1}}}\n",
            "unknown key 'rounds.staleness.sqrt.params.a'",
        ),
        (MINIMAL + "rounds: {staleness: {name: polynomial, params: {a: 0}}}\n", "greater than 0"),
        (
            MINIMAL + "rounds: {staleness: {name: polynomial, params: {a: .nan}}}\n",
            "rounds.staleness.polynomial.params.a",
        ),
        (MINIMAL + "rounds: {staleness: {name: hinge, params: {b: -1}}}\n", "greater than or equal to 0"),
        (MINIMAL + "rounds: {staleness: {name: hinge, params: {a: .inf}}}\n", "rounds.staleness.hinge.params.a"),
        (MINIMAL + "rounds: {staleness: [hinge]}\n", "rounds.staleness: "),
        (MINIMAL + "rounds: {staleness: {params: {}}}\n", "rounds.staleness: "),
        (MINIMAL + "rounds: {deadline_s: .inf}\n", "rounds.deadline_s: "),
        (MINIMAL + "rounds: {server_lr: .nan}\n", "rounds.server_lr: "),
        (MINIMAL + "simulate: {dropout: 1}\n", "simulate.dropout: "),
        (MINIMAL.replace("demo", "../up"), "name: "),
        (MINIMAL + "1: 2\n", "string"),
        ("name: demo\ndata: {name: shapes}\n", "method: "),
        ("name: demo\nmethod: {name: fedclip}\n", "give either `data`"),
        (MINIMAL + "sites: [clinic]\n", "give either `data`"),
        (MINIMAL + "model: {prompts: [a picture]}\n", "needs a {}"),
        (MINIMAL + "model: {prompts: []}\n", "needs a {}"),
        (MINIMAL + "model: {classes: []}\n", "model: classes must be two at least"),
        (MINIMAL + "model: {classes: [ant]}\n", "model: classes must be two at least"),
        (MINIMAL + "model: {classes: [ant, bee, ant]}\n", "each named once"),
        (MINIMAL + "model: {classes: [ant, bee, 'Ant ']}\n", "cannot tell the classes 'Ant ' and 'ant' apart"),
        (MINIMAL + 'model: {classes: [café, bee, "cafe\\u0301"]}\n', "cannot tell the classes"),  # composed, or not
        (MINIMAL + 'model: {classes: [ant, bee, "an\\u200bt"]}\n', "cannot tell the classes"),  # no width
        (MINIMAL + "model: {classes: [ant, '']}\n", "model.classes.1: "),
        (MINIMAL + 'model: {classes: [ant, "a\\e[31m"]}\n', "model.classes.1: "),
        (MINIMAL + "model: {classes: [yes, no]}\n", "model.classes.0: Input should be a valid string"),
        ("name: demo\nmethod: {name: fedclip}\nsites: []\n", "sites must be one at least"),
        ("name: demo\nmethod: {name: fedclip}\nsites: [a, b, a]\n", "each named once"),
        ("", "holds no settings"),
        ("- a\n- b\n", "holds no settings"),
        ("just text", "holds no settings"),
        (MINIMAL[:-2], "is not YAML"),  # truncated
        ("name: [1, 2\n", "is not YAML"),
        ("name: 'demo\n", "is not YAML"),
        ("a: &a [*b]\n", "*b points elsewhere; write it out (line 1)"),
        (MINIMAL + "name: twice\n", "key 'name' is there twice (line 4)"),
        (MINIMAL + "rounds: {quorum: 3, 'quorum': 4}\n", "key 'quorum' is there twice (line 4)"),
        (MINIMAL + "? [a]\n: 1\n", "is not YAML"),
        ("!!python/object/apply:os.system [true]\n", "tag"),
        ("when: 2001-13-45\n", "is not YAML"),  # looks like a date, and is none
        ("number: " + "9" * 5000 + "\n", "a number of 5000 characters"),
        ("[" * 500, "more than 32 levels deep"),
        (b"\x00\x01\x02\x89PNG\r\n", "is not YAML"),
        (b"name: \xff\xfe\n", "is not YAML"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(write: Any, text: str | bytes, says: str) -> None:
    path = write(text)
    assert says in (told := _refusal(path)), told
    assert str(path) in told


def test_a_file_that_is_no_page_of_text_is_not_read(write: Any) -> None:
    assert "larger than" in _refusal(write(MINIMAL + "#" * LARGEST))
    assert "larger than" not in str(read_experiment(write((MINIMAL + "#" * LARGEST)[:LARGEST])))


def test_a_file_that_is_not_there_or_is_a_folder_is_named(tmp_path: Path) -> None:
    assert f"cannot read {tmp_path / 'no.yaml'}: No such file" in _refusal(tmp_path / "no.yaml")
    assert f"cannot read {tmp_path}: Is a directory" in _refusal(tmp_path)


def test_aliases_that_would_grow_to_a_billion_are_refused_quickly(write: Any) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    assert "points elsewhere" in _refusal(write(MINIMAL + "\n".join(lines)))


# --- numbers that cannot be


@pytest.mark.parametrize(
    ("rounds", "says"),
    [
        ("{in_flight: 4, quorum: 5, floor: 1}", "quorum 5 can never be reached with in_flight 4"),
        ("{in_flight: 4, quorum: 2, floor: 3}", "floor 3 must not be above quorum 2"),
        ("{quorum: 0}", "rounds.quorum: "),
        ("{in_flight: 0}", "rounds.in_flight: "),
        ("{floor: 0}", "rounds.floor: "),
        ("{versions: -1}", "rounds.versions: "),
        ("{grace_s: -0.1}", "rounds.grace_s: "),
        ("{deadline_s: 0}", "rounds.deadline_s: "),
        ("{server_lr: 0}", "rounds.server_lr: "),
        ("{max_staleness: -1}", "rounds.max_staleness: "),
        ("{retries: -1}", "rounds.retries: "),
        ("{retries: 1000001}", "rounds.retries: "),
        ("{versions: 100000000}", "rounds.versions: "),  # the key of a version has eight digits
        ("{versions: 1.5}", "rounds.versions: "),
        ("{in_flight: 1000001}", "rounds.in_flight: "),
        ("{max_staleness: 1000001}", "rounds.max_staleness: "),
        ("{max_norm: 0}", "rounds.max_norm: "),
        ("{max_norm: .inf}", "rounds.max_norm: "),
        ("{deadline_s: 1e400}", "rounds.deadline_s: "),
        ("{deadline_s: 1.0e+400}", "rounds.deadline_s: "),
        ("{deadline_s: 31536001}", "rounds.deadline_s: "),
        ("{grace_s: .nan}", "rounds.grace_s: "),
    ],
)
def test_impossible_numbers_are_refused(write: Any, rounds: str, says: str) -> None:
    assert says in _refusal(write(MINIMAL + f"rounds: {rounds}\n"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("start_s: 0\n", "start_s: "),
        ("start_s: -.inf\n", "start_s: "),
        ("evaluate: {every: -1}\n", "evaluate.every: "),
        ("simulate: {dropout: -0.1}\n", "simulate.dropout: "),
        ("simulate: {dropout: .nan}\n", "simulate.dropout: "),
        ("simulate: {time_scale: -1}\n", "simulate.time_scale: "),
        ("simulate: {latency: {name: lognormal, params: {sigma: -1}}}\n", "lognormal: sigma: "),
        ("data: {name: shapes, partition: {name: dirichlet, params: {clients: 4, alpha: 0}}}\n", "dirichlet: alpha: "),
        ("data: {name: shapes, partition: {name: dirichlet, params: {clients: 4, alpha: -1}}}\n", "dirichlet: alpha: "),
        ("data: {name: shapes, partition: {name: dirichlet, params: {clients: 0}}}\n", "dirichlet: clients: "),
        (
            "data: {name: shapes, partition: {name: by_domain, params: {clients_per_domain: 0}}}\n",
            "clients_per_domain: ",
        ),
        ("data: {name: shapes, params: {per_class: 1.0e+400}}\n", "shapes: per_class: "),
        ("transforms: [{name: clip, params: {norm: 0}}]\n", "clip: norm: "),
        ("method: {name: fedclip, params: {lr: .nan}}\n", "fedclip: lr: "),
    ],
)
def test_impossible_numbers_elsewhere_are_refused(write: Any, text: str, says: str) -> None:
    key = text.partition(":")[0]
    base = "\n".join(line for line in MINIMAL.splitlines() if not line.startswith(f"{key}:")) + "\n"
    assert says in (told := _refusal(write(base + text))), told


# --- --set


def test_set_replaces_a_value_and_makes_the_way_to_it(write: Any) -> None:
    asked = read_experiment(
        write(MINIMAL + "seed: 1\n"),
        ["seed=7", "rounds.quorum=5", "model.backbone={name: tiny}", "method.params.preset=paper", "name=other"],
    )
    assert (asked.seed, asked.rounds.quorum, asked.name) == (7, 5, "other")
    assert asked.method == Choice(name="fedclip", params={"preset": "paper"})


def test_the_last_set_wins_and_its_value_may_hold_an_equals_sign(write: Any) -> None:
    asked = read_experiment(write(MINIMAL), ["seed=1", "seed=2", 'model.prompts=["a = {}"]'])
    assert (asked.seed, asked.model.prompts) == (2, ("a = {}",))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed", "write --set path=value"),
        ("=3", "write --set path=value"),
        ("", "write --set path=value"),
        ("sede=3", "did you mean 'seed'?"),
        ("rounds.quorom=3", "did you mean 'quorum'?"),
        ("seed.deep=3", "seed holds no keys"),
        ("transforms.0.name=clip", "transforms holds no keys"),
        ("seed=[1", "is not YAML"),
        ("seed=2001-13-45", "is not YAML"),
        ("seed=" + "[" * 500, "more than 32 levels deep"),
        ("seed=*a", "points elsewhere"),
        ("method.params={lr: 1, lr: 2}", "key 'lr' is there twice"),
        ("a." * 40 + "a=1", "more than 32 levels deep"),
        ("seed=", "seed: "),
        ("rounds.quorum=99", "quorum 99 can never be reached"),
        ("data=null", "give either `data`"),
    ],
)
def test_a_wrong_set_is_refused(write: Any, override: str, says: str) -> None:
    assert says in (told := _refusal(write(MINIMAL + "seed: 1\ntransforms: []\n"), override)), told


# --- paths


def test_relative_paths_count_from_the_file(write: Any, tmp_path: Path) -> None:
    text = "name: demo\ndata: {name: folder, params: {root: ../photos}}\nmethod: {name: fedclip}\n"
    asked = read_experiment(write(text))
    assert asked.data is not None
    assert asked.data.params["root"] == str(tmp_path / "../photos")
    assert read_experiment(write(text), ["data.params.root=/srv/photos"]).data.params["root"] == "/srv/photos"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "override",
    [
        "data.params.root=photos",
        "data.params={root: photos}",
        "data={name: folder, params: {root: photos}}",
    ],
)
def test_relative_paths_of_the_command_line_count_from_where_it_is_said(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    clip = "model: {backbone: {name: open_clip, params: {model: ViT-B-32, pretrained: openai, weights: w.pt}}}\n"
    file = write(f"name: demo\ndata: {{name: folder, params: {{root: in-file}}}}\nmethod: {{name: fedclip}}\n{clip}")
    asked = read_experiment(file, [override, "model.backbone.params.quick_gelu=true"])
    assert asked.data is not None
    assert asked.data.params["root"] == str(tmp_path / "elsewhere" / "photos")
    assert asked.model.backbone.params["weights"] == str(tmp_path / "w.pt")  # of the file still
    asked = read_experiment(file, ["model.backbone.params.weights=own.pt", "data.split=permutation"])
    assert asked.data is not None and asked.data.params["root"] == str(tmp_path / "in-file")
    assert asked.model.backbone.params["weights"] == str(tmp_path / "elsewhere" / "own.pt")


def test_a_path_from_home_is_the_users(write: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    asked = read_experiment(write(MINIMAL), ["data={name: folder, params: {root: ~/photos}}"])
    assert asked.data is not None and asked.data.params["root"] == str(tmp_path / "home" / "photos")


# --- plugins


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("method.name=fedclap", "no methods plugin 'fedclap' (did you mean 'fedclip'?)"),
        ("method.name=_clip", "no methods plugin"),
        ("method.name=../plan", "no methods plugin"),
        ("codec.name=zip", "there are: cvlc, fp16, int8, raw"),
        ("aggregator.name=main", "did you mean 'mean'?"),
        ("selector.name=unifrom", "did you mean 'uniform'?"),
        ("data.name=shape", "did you mean 'shapes'?"),
        ("data.partition={name: by_domian}", "did you mean 'by_domain'?"),
        ("model.backbone.name=tinny", "did you mean 'tiny'?"),
        ("simulate.latency.name=log_normal", "did you mean 'lognormal'?"),
        ("transforms=[{name: clib}]", "did you mean 'clip'?"),
        ("method.params={presett: paper}", "fedclip: unknown key 'presett', did you mean 'preset'?"),
        ("method.params={preset: best}", "fedclip: preset: "),
        ("codec={name: raw, params: {bits: 8}}", "raw: unknown key 'bits'"),
        ("data.params={per_class: none}", "shapes: per_class: "),
        ("simulate.latency={name: lognormal, params: {sigma: 99}}", "lognormal: sigma: "),
        ("transforms=[{name: clip}]", "clip: norm: "),
        ("method.name=no.such.module:Class", "cannot load 'no.such.module:Class'"),
        (f"method.name={HERE}:Missing", f"cannot load '{HERE}:Missing'"),
        (f"method.name={HERE}:HERE", "is no plugin"),
        ("method.name=':'", "cannot load ':'"),
        (f"method={{name: '{HERE}:Exact', params: {{a: 1}}}}", "unknown key 'a'"),
    ],
)
def test_an_unknown_plugin_or_parameter_is_refused_with_the_nearest_one(write: Any, override: str, says: str) -> None:
    with pytest.raises(PluginError) as caught:
        plan(read_experiment(write(MINIMAL), [override]))
    assert says in str(caught.value), caught.value


def test_every_part_of_a_plan_may_be_named_by_its_module(write: Any) -> None:
    made = plan(read_experiment(write(MINIMAL), [f"method.name={HERE}:Exact", f"aggregator.name={HERE}:Keep"]))
    assert type(made.method).__name__ == "Exact" and type(made.aggregator).__name__ == "Keep"


# --- what does not go together


def _plan(write: Any, method: str, *overrides: str) -> Plan:
    return plan(read_experiment(write(MINIMAL), [f"method.name={HERE}:{method}", *overrides]))


@pytest.mark.parametrize(
    ("method", "override", "says"),
    [
        ("Exact", "codec.name=fp16", "codec fp16 would falsify them; use raw"),
        ("Exact", "transforms=[{name: clip, params: {norm: 1}}]", "transforms would falsify them; use none"),
        ("Exact", f"transforms=[{{name: '{HERE}:Nothing'}}]", "transforms would falsify them; use none"),
        ("Unsummable", "aggregator.name=mean", "may not be added, as aggregator mean does"),
        ("Undiscounted", "rounds.max_staleness=1", "may not be discounted; use staleness: constant"),
        ("Adding", f"aggregator.name={HERE}:Keep", "leave out aggregator, rounds.apply and rounds.server_lr"),
        ("Adding", "rounds.apply=mix", "leave out aggregator, rounds.apply and rounds.server_lr"),
        ("Adding", "rounds.server_lr=0.5", "leave out aggregator, rounds.apply and rounds.server_lr"),
        ("Pooled", "seed=0", "one client trains for all; use in_flight: 1, quorum: 1 and floor: 1"),
    ],
)
def test_parts_that_would_give_a_wrong_result_are_refused(write: Any, method: str, override: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _plan(write, method, override)
    assert says in str(caught.value)
    assert f"{HERE}:{method}" in str(caught.value)


@pytest.mark.parametrize(
    ("method", "override"),
    [
        ("Exact", "codec.name=raw"),
        ("Unsummable", f"aggregator.name={HERE}:Keep"),
        ("Undiscounted", "rounds.max_staleness=0"),
        ("Undiscounted", "rounds.staleness=constant"),
        ("Adding", "rounds.max_staleness=3"),
        ("Pooled", "rounds={in_flight: 1, quorum: 1, floor: 1}"),
    ],
)
def test_the_way_out_that_is_named_is_one(write: Any, method: str, override: str) -> None:
    assert compatible(_plan(write, method, override)) is None


@pytest.mark.parametrize("simulate", ["{latency: {name: lognormal}}", "{dropout: 0.1}", "{presence: {name: sessions}}"])
def test_clients_of_one_task_cannot_be_slow_or_away_alone(write: Any, simulate: str) -> None:
    shared = "rounds={clients_per_task: 2}"
    assert "use rounds.clients_per_task: 1" in _refusal(write(MINIMAL), shared, f"simulate={simulate}")
    for overrides in ([shared, "simulate={time_scale: 0}"], [f"simulate={simulate}"]):
        assert compatible(plan(read_experiment(write(MINIMAL), overrides))) is None


def test_a_method_that_pools_is_refused_where_the_images_lie_at_sites(write: Any) -> None:
    alone = "rounds={in_flight: 1, quorum: 1, floor: 1}"
    with pytest.raises(ConfigError, match="which lie at the sites; it is for simulations only"):
        _plan(write, "Pooled", alone, "data=null", "sites=[north, south]")


def test_an_honest_method_goes_with_everything(write: Any) -> None:
    overrides = ["codec.name=fp16", "transforms=[{name: clip, params: {norm: 1}}]", "rounds.max_staleness=3"]
    assert compatible(plan(read_experiment(write(MINIMAL), overrides))) is None


@pytest.mark.parametrize("adapter", ["lora", "tower"])
def test_who_goes_on_with_merged_models_on_features_takes_no_adapter_on_images(write: Any, adapter: str) -> None:
    def made(name: str) -> Plan:
        overrides = ["method.name=perada", f"method.params.adapter={name}", "public.name=shapes"]
        return plan(read_experiment(write(MINIMAL), overrides))

    with pytest.raises(ConfigError, match="perada goes on with merged models on features") as caught:
        made(adapter)
    assert "\n" not in str(caught.value)
    assert compatible(made("gate")) is None


@pytest.mark.parametrize("adapter", ["lora", "tower", "{name: lora, params: {rank: 2}}"])
def test_who_trains_inside_the_image_tower_wants_one_in_full_precision(write: Any, adapter: str) -> None:
    file, inside = write(MINIMAL), ["method.name=fedavg", f"method.params.adapter={adapter}"]
    clip = "model.backbone={{name: open_clip, params: {{model: ViT-B-32, pretrained: openai, precision: {}}}}}"
    for precision in ("bf16", "fp16"):
        assert "use model.backbone.params.precision: fp32" in _refusal(file, *inside, clip.format(precision))
        assert compatible(plan(read_experiment(file, ["method.name=fedavg", clip.format(precision)]))) is None
    assert compatible(plan(read_experiment(file, [*inside, clip.format("fp32")]))) is None
    without = f"model.backbone.name={HERE}:Features"
    assert f"backbone {HERE}:Features has none that could be trained" in _refusal(file, *inside, without)
    assert compatible(plan(read_experiment(file, ["method.name=fedavg", without]))) is None


@pytest.mark.parametrize("method", ["{name: promptfl}", "{name: fedprox, params: {adapter: prompt}}"])
def test_who_learns_words_wants_a_text_tower(write: Any, method: str) -> None:
    without = f"model.backbone.name={HERE}:Features"
    assert f"backbone {HERE}:Features has no text tower" in _refusal(write(MINIMAL), f"method={method}", without)
    assert "'{} alone' has none" in _refusal(write(MINIMAL), f"method={method}", 'model.prompts=["{} alone", "a {}"]')
    assert compatible(plan(read_experiment(write(MINIMAL), [f"method={method}"]))) is None


def test_a_method_that_does_not_train_stays_at_version_0(write: Any) -> None:
    assert _plan(write, "Untrained", "rounds.versions=9").versions == 0
    assert _plan(write, "Exact", "rounds.versions=9").versions == 9


# --- other documents


def test_a_site_file_is_checked_like_an_experiment() -> None:
    with pytest.raises(ConfigError, match=r"site.yaml: unknown key 'plugin', did you mean 'plugins'\?"):
        parse(SiteData, {"data": {"name": "folder"}, "plugin": []}, "site.yaml")


def test_a_parsed_experiment_is_the_model_itself() -> None:
    document = {"name": "a", "sites": ["x"], "method": {"name": "fedavg"}}
    assert parse(Experiment, document, "here") == Experiment.model_validate(document)
