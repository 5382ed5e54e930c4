"""How many hidden states a model that hears gives for a sound, and what it hears with made still.

Axes: L steps of features, P hidden states, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from luthier.models.audio.sounds import Sounds
from luthier.models.modes import evaluating

RULES = ("_get_feat_extract_output_lengths", "_get_subsampling_output_length")


@dataclass
class Frames:
    """Of a model that ``run`` gives features of one sound, (1, L) or (1, L, F), and takes (1, P, D) from: by the
    model's own rule, or asked."""

    model: PreTrainedModel
    sounds: Sounds
    run: Callable[[Tensor], Tensor]
    _known: dict[int, int] = field(default_factory=dict, repr=False)

    def __call__(self, steps: int) -> int:
        """For features of so many steps."""
        if self.sounds.capacity is not None:
            steps = 0  # always as many
        if steps not in self._known:
            rule = next((rule for name in RULES if (rule := getattr(self.model, name, None)) is not None), None)
            self._known[steps] = int(rule(torch.tensor([steps]))) if rule and steps else self._asked(steps)
        return self._known[steps]

    def _asked(self, steps: int) -> int:
        blank = self.sounds.blank()
        features = torch.zeros(1, steps, *blank.shape[1:]) if steps else blank[None]
        with evaluating(self.model), torch.no_grad():
            return self.run(features.to(next(self.model.parameters()).device)).shape[1]


def still(model: PreTrainedModel) -> None:
    """Without layers that are left out at random and without transformers' own masks of time, which draw from a state
    that no seed of a step reaches; the vector that stands for what is hidden learns nothing."""
    for config in [model.config, *(module.config for module in model.modules() if isinstance(module, PreTrainedModel))]:
        for name, value in (("apply_spec_augment", False), ("layerdrop", 0.0)):
            if hasattr(config, name):
                setattr(config, name, value)
    for module in model.modules():
        if "masked_spec_embed" in module._parameters:
            held = module._parameters.pop("masked_spec_embed")
            module.register_buffer("masked_spec_embed", held.detach() if held is not None else None)
