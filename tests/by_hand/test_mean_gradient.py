"""The gradient of a mean from that of a sum, and no longer than wanted: 3, 4 and 5."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from luthier.engine.optimizer import mean_and_clip


def summed() -> list[nn.Parameter]:
    """Gradients 6 and 8 of a sum over two, so 3 and 4 of the mean, of length 5; a third number has none."""
    made = [nn.Parameter(torch.tensor([1.0])) for _ in range(3)]
    for parameter, gradient in zip(made, (6.0, 8.0), strict=False):
        parameter.grad = torch.tensor([gradient])
    return made


@pytest.mark.parametrize(("most", "expected"), [(10.0, (3.0, 4.0)), (5.0, (3.0, 4.0)), (1.0, (0.6, 0.8))])
def test_the_mean_and_its_length(most: float, expected: tuple[float, float]) -> None:
    made = summed()
    assert mean_and_clip(made, 2.0, None, most) == pytest.approx(5.0)
    assert [float(p.grad) for p in made[:2] if p.grad is not None] == pytest.approx(list(expected), rel=1e-6)
    assert made[2].grad is None


def test_a_penalty_is_added_to_the_mean() -> None:
    """2 · the third number has the gradient 2; 3, 4 and 2 are √29 long, and are brought to 1."""
    made = summed()
    assert mean_and_clip(made, 2.0, lambda: (2 * made[2]).sum(), 1.0) == pytest.approx(29**0.5)
    found = [float(p.grad) for p in made if p.grad is not None]
    assert found == pytest.approx([x / 29**0.5 for x in (3, 4, 2)], rel=1e-6)


def test_nothing_and_what_is_not_finite() -> None:
    assert mean_and_clip([nn.Parameter(torch.ones(1))], 0.0, None, 1.0) == 0.0
    made = summed()
    made[0].grad = torch.tensor([float("nan")])
    assert not torch.isfinite(torch.tensor(mean_and_clip(made, 2.0, None, 1.0)))
