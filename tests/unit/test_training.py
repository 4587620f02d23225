import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.toys import examples, setting
from workers.adapters.gate import AttentionGate
from workers.method import Examples
from workers.optimiser import Adam
from workers.readout import Cosine
from workers.tensors import generator
from workers.training import Recipe, accuracy, fit, one_thread


def _by_the_papers(w: float, gradient: Callable[[float, int], float], decay: float, coupled: bool) -> float:
    """20 steps of one number, with the moments corrected one by one as in the papers' algorithms."""
    m = v = 0.0
    for t in range(1, 21):
        g = gradient(w, t) + (decay * w if coupled else 0.0)
        m, v = 0.9 * m + 0.1 * g, 0.98 * v + 0.02 * g * g
        step = m / (1 - 0.9**t) / (math.sqrt(v / (1 - 0.98**t)) + 1e-6)
        w -= 0.01 * step + (0.0 if coupled else 0.01 * decay * w)
    return w


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_the_optimiser_takes_the_steps_of_the_papers(coupled: bool, decay: float) -> None:
    start = [-1.5, -0.2, 0.0, 0.7, 3.0]
    ours = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimiser = Adam([ours], lr=0.01, betas=(0.9, 0.98), eps=1e-6, weight_decay=decay, coupled=coupled)
    for t in range(1, 21):
        optimiser.zero_grad()
        ((ours - t / 10) ** 4).sum().backward()
        optimiser.step()
    expected = [_by_the_papers(w, lambda w, t: 4 * (w - t / 10) ** 3, decay, coupled) for w in start]
    assert ours.tolist() == pytest.approx(expected, abs=1e-12)


def test_a_parameter_without_gradient_stays() -> None:
    used, idle = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimiser = Adam([used, idle], lr=0.1, betas=(0.9, 0.9), eps=1e-8, weight_decay=0.5, coupled=False)
    used.sum().backward()
    optimiser.step()
    assert idle.tolist() == [1.0, 1.0] and used.tolist() != [1.0, 1.0]


def test_the_same_generator_gives_the_same_bits_on_any_number_of_threads() -> None:
    data, threads = examples(setting(), 100, 1), torch.get_num_threads()
    trained = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            gate = AttentionGate(setting().texts, 20.0, generator(0, "init"))
            fit(gate, data, Recipe(epochs=2), generator(0, "batches"))
            trained.append(gate.state_dict())
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(trained[0][k], trained[1][k]) for k in trained[0])


def test_one_thread_is_given_back_after_an_error() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), one_thread():
        assert torch.get_num_threads() == 1
        _ = 1 / 0
    assert torch.get_num_threads() == threads


def test_accuracy_is_the_share_of_largest_logits_that_are_right() -> None:
    texts = torch.eye(3)
    data = Examples(torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, 0.1, 3], [1, 0, 0]]), torch.tensor([0, 1, 2, 1]))
    assert accuracy(Cosine(texts, 1.0), data) == 0.75
    assert math.isnan(accuracy(Cosine(texts, 1.0), Examples(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))))
