"""Places that a text changes before they are pooled, on numbers that fit on paper."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from luthier.fusion.common import Sizes
from luthier.fusion.modulation import Fusion, Options


def of_one_layer(sizes: Sizes) -> Any:
    """γ = (w₁, 0), β = 0; its inner unit is 10 x₁, a tenth of which goes to number 2. Nothing is mixed in yet."""
    made: Any = Fusion(Options(layers=1), sizes)
    layer = made.layers[0]
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" not in name and not name.startswith("project.layers.0"):
                parameter.zero_()
        made.project.layers[1].weight.copy_(torch.eye(2))
        layer.film.weight[0, 0] = 1
        layer.up.weight[0, 0], layer.down.weight[1, 0] = 10, 0.1
    return made


@pytest.fixture
def fusion() -> Any:
    """Of width 2; mixed are h + (max₁ + mean₂, max₂ + mean₁)."""
    made = of_one_layer(Sizes(pictures=2, text=2, tokens=2))
    with torch.no_grad():
        made.mix.weight.copy_(torch.tensor([[1.0, 0, 1, 0, 0, 1], [0, 1, 0, 1, 1, 0]]))
    return made


def given(fusion: Any, states_KLE: list[list[list[float]]], mask_KL: list[list[int]]) -> torch.Tensor:
    """Rows of which the first two see a picture of the places (3, 1) and (1, 3), and the third none."""
    pictures_IPD = torch.tensor([[[3.0, 1.0], [1.0, 3.0]]] * 2)
    text = lambda **_: SimpleNamespace(last_hidden_state=torch.tensor(states_KLE))  # noqa: E731
    inputs = {"attention_mask": torch.tensor(mask_KL)}
    return fusion(text, inputs, pictures_IPD, torch.tensor([0, 1]))


def test_what_is_asked_for_decides_at_each_place(fusion: Any) -> None:
    """Normed, the places are (1, -1) and (-1, 1). Told (1, 0), 10 x₁ is 20 and -20: the first place becomes (1, 1), the
    second stays, so that max = (1, 1), mean = (0, 1) and the row (1 + 1 + 1, 0 + 1 + 0). Told (-1, 0) both stay:
    max = (1, 1), mean = (0, 0), (-1 + 1 + 0, 0 + 1 + 0). A row that sees nothing is its text."""
    told = given(fusion, [[[1.0, 0.0]], [[-1.0, 0.0]], [[5.0, 6.0]]], [[1], [1], [1]])
    torch.testing.assert_close(told[:, 0], torch.tensor([[3.0, 1.0], [0.0, 1.0], [5.0, 6.0]]), atol=1e-3, rtol=0)


def test_a_text_is_the_mean_of_its_own_tokens(fusion: Any) -> None:
    """Of the states (2, 0), (0, 0) and of padding (9, 9) the text is (1, 0): what is seen adds (2, 1) to each."""
    states = [[[2.0, 0.0], [0.0, 0.0], [9.0, 9.0]]] * 3
    told = given(fusion, states, [[1, 1, 0]] * 3)
    torch.testing.assert_close(told[0], torch.tensor([[4.0, 1.0], [2.0, 1.0], [11.0, 10.0]]), atol=1e-3, rtol=0)


def test_places_are_as_wide_as_the_narrower_tower() -> None:
    """Pictures 2 wide, the text 4: told (1, 1, -1, -1), normed as it stands, γ = (w₁, 0) doubles the first number of a
    place, as above; of (-1, -1, 1, 1), and of a tenth of it, nothing is left. Mixed into the first two numbers of the
    text are max = (1, 1) and mean = (0, 1), or (1, 1) and (0, 0)."""
    made = of_one_layer(Sizes(pictures=2, text=4, tokens=2))
    with torch.no_grad():
        made.mix.weight[0, [0, 4, 7]], made.mix.weight[1, [1, 5, 6]] = 1.0, 1.0
    states = [[[1.0, 1.0, -1.0, -1.0]], [[-0.1, -0.1, 0.1, 0.1]]]
    told = given(made, states, [[1], [1]])
    expected = torch.tensor([[3.0, 2.0, 0.0, 0.0], [0.9, 0.9, 0.0, 0.0]])
    torch.testing.assert_close(told[:, 0], expected, atol=2e-2, rtol=0)


def test_it_is_drawn_by_its_width_and_not_by_the_text_model() -> None:
    """Weights of a layer that reads n numbers lie between -1/sqrt(n) and 1/sqrt(n), each as likely as another: their
    standard deviation is 1/sqrt(3 n). The text model's own is 0.02, half of it where n is 192."""
    from transformers import BertConfig, ViTConfig

    from luthier.models.joined.composed import ComposedConfig, ComposedForSequenceClassification

    size = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = ComposedConfig(
        image_config=ViTConfig(hidden_size=192, image_size=8, patch_size=4, **size),
        text_config=BertConfig(hidden_size=256, vocab_size=8, **size),
        picture_tokens=5, picture_width=192, fusion="modulation", fusion_options={}, image_token_id=7, num_labels=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = ComposedForSequenceClassification(config)
    layer = model.model.fusion.layers[0]
    for linear, read in (
        (layer.film, 256),
        (layer.up, 192),
        (layer.down, 384),
        (model.model.fusion.mix, 256 + 2 * 192),
    ):
        assert linear.weight.std().item() == pytest.approx((3 * read) ** -0.5, rel=0.02)
        assert linear.weight.abs().max().item() <= read**-0.5
    assert model.classifier.weight.std().item() == pytest.approx(0.02, rel=0.15)
