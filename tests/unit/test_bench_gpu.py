"""The script for a GPU, as small as it can be, and what it says without one."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks.gpu import Card, Rate, line, section
from benchmarks.machine import here
from scripts import bench_gpu


def test_it_runs_on_a_processor_as_small_as_can_be(tmp_path: Path) -> None:
    done = CliRunner().invoke(bench_gpu.main, ["--device", "cpu", "--small", "--out", str(tmp_path / "found.json")])
    assert done.exit_code == 0, done.output
    found = Card.model_validate(json.loads((tmp_path / "found.json").read_text()))
    assert [(r.what, r.unit) for r in found.rates] == [
        ("matrix product", "TFLOP/s"), ("8 clients together, cpu", "clients/s"), ("tiny", "images/s")
    ]  # fmt: skip
    assert all(r.figure > 0 for r in found.rates) and "no figure" in done.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    done = CliRunner().invoke(bench_gpu.main, [])
    assert (done.exit_code, done.output) == (1, "Error: there is no GPU that torch can use here\n")


def test_a_processor_alone_is_not_measured() -> None:
    assert CliRunner().invoke(bench_gpu.main, ["--device", "cpu"]).exit_code == 2


def test_the_share_of_the_ceiling_is_in_the_table() -> None:
    # 10,000 images of 8.82 GFLOP a second are 88.2 TFLOP/s: 44.1 % of 200.
    rate = Rate(what="ViT-B-32", precision="bf16", figure=10_000, unit="images/s", share=10_000 * 8.82 / 1000 / 200)
    assert "44.1 % of the ceiling" in line(rate)
    assert "| 44.1 % |" in section(Card(where=here(), device="card", small=False, rates=(rate,)))
