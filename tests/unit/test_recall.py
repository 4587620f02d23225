"""The experiment that a run keeps, read again: one line says what is wrong with it."""

from pathlib import Path

import pytest

from infra.runtime import Runtime, connect
from infra.settings import Settings
from orchestrator import keys
from orchestrator.run import LARGEST_EXPERIMENT, recall, remember
from schemas.base import canonical
from schemas.errors import BlobError, ConfigError
from tests.toys import experiment

KEPT = canonical(experiment())


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    urls = {"blobs": f"file:{tmp_path}/blobs", "state": f"file:{tmp_path}/state", "bus": "local:"}
    return connect(Settings.model_validate(urls), lambda stream, state: lambda task: None)


def test_an_experiment_is_recalled_as_it_was_kept(runtime: Runtime) -> None:
    remember(experiment(), runtime, "demo")
    assert recall(runtime, "demo") == experiment()


@pytest.mark.parametrize(
    "kept",
    [b"", KEPT[:-5], b"\xff\xfe", b"[" * 10_000, b"[]", b'{"un\\nheard": 1}', KEPT.replace(b'"seed":0', b'"seed":"x"')],
)
def test_an_experiment_that_cannot_be_read_is_told_in_one_line(runtime: Runtime, kept: bytes) -> None:
    assert kept != KEPT
    runtime.blobs.put(keys.experiment("demo"), kept)
    with pytest.raises(ConfigError, match="the experiment of run 'demo' cannot be read: ") as told:
        recall(runtime, "demo")
    assert "\n" not in str(told.value) and len(str(told.value)) < 300


def test_an_experiment_without_end_is_not_read(runtime: Runtime) -> None:
    runtime.blobs.put(keys.experiment("demo"), b" " * (LARGEST_EXPERIMENT + 1))
    with pytest.raises(BlobError, match="larger than"):
        recall(runtime, "demo")
