"""The wheel: four packages, what they need at run time, and nothing else."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("orchestrator", "workers", "schemas", "infra")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    out = tmp_path_factory.mktemp("wheel")
    quiet = {**os.environ, "PIP_NO_INDEX": "1"}
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    ran = subprocess.run(build, cwd=out, env=quiet, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (made,) = out.glob("*.whl")
    with zipfile.ZipFile(made) as archive:
        yield archive


def test_the_wheel_holds_four_packages_and_its_metadata(wheel: zipfile.ZipFile) -> None:
    top = {name.partition("/")[0] for name in wheel.namelist()}
    (metadata,) = top - set(PACKAGES)
    assert top == {*PACKAGES, metadata}
    assert metadata.startswith("quorate-") and metadata.endswith(".dist-info")


def test_every_module_is_inside_and_nothing_that_is_not_ours(wheel: zipfile.ZipFile) -> None:
    ours = {p.relative_to(ROOT).as_posix() for package in PACKAGES for p in (ROOT / package).rglob("*.py")}
    inside = {name for name in wheel.namelist() if name.endswith(".py")}
    assert inside == ours
    assert len(ours) > 60


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_are_told_that_the_package_is_typed(wheel: zipfile.ZipFile, package: str) -> None:
    assert f"{package}/py.typed" in wheel.namelist()


def test_the_bundled_model_is_inside_byte_for_byte(wheel: zipfile.ZipFile) -> None:
    folder = ROOT / "workers" / "models" / "weights"
    for name in ("tiny.safetensors", "tiny.json"):
        assert wheel.read(f"workers/models/weights/{name}") == (folder / name).read_bytes()
    json.loads(wheel.read("workers/models/weights/tiny.json"))


def test_images_tests_and_experiments_stay_outside(wheel: zipfile.ZipFile) -> None:
    assert (ROOT / "infra" / "deploy" / "Dockerfile").exists()  # so there is something to leave out
    outside = ("infra/deploy/", "tests/", "experiments/", "scripts/", "benchmarks/", "docs/")
    assert [name for name in wheel.namelist() if name.startswith(outside)] == []
    assert [name for name in wheel.namelist() if "__pycache__" in name] == []


def test_the_command_is_declared(wheel: zipfile.ZipFile) -> None:
    (entry,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "quorate = orchestrator.cli:main" in wheel.read(entry).decode()


def test_the_wheel_stays_small(wheel: zipfile.ZipFile) -> None:
    # The bundled weights may take 8 MB (they barely compress), the code is far below one.
    assert sum(i.compress_size for i in wheel.infolist()) < 9_000_000
