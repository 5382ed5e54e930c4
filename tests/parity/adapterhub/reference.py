"""What `make_fixtures.py` recorded of AdapterHub's `adapters`, as tensors. Needs neither that library nor its versions.

    case = load("bert")
    model = case.model()                            # plain transformers, with the recorded weights
    setting = case.settings["pfeiffer_fusion"]      # which adapters, how composed, and what came out
    case.adapters["pfeiffer_a"].tensors["encoder.layer.0", "feed_forward", "down.weight"]

A block is named as in ``model.named_modules()``; a place is ``attention``, ``cross_attention`` or ``feed_forward``.
Every weight is float32. `README.md` has the formulas.

Axes: B rows, T tokens (of the decoder where there is one), S tokens of the encoder, D width, H width of a bottleneck,
N fused adapters.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

HERE = Path(__file__).resolve().parent
CASES = ("bert", "distilbert", "llama", "gpt2", "bart", "t5")
Place = tuple[str, str]  # (block, place)
Part = tuple[str, str, str]  # (block, place, part)


@dataclass(frozen=True)
class Adapter:
    """One adapter at all its places. Parts: ``down.weight`` (H, D), ``down.bias`` (H,), ``up.weight`` (D, H),
    ``up.bias`` (D,).

    ``kind`` is houlsby, pfeiffer or parallel; ``options`` are the fields of AdapterHub's ``BnConfig``, among them
    ``non_linearity``, ``scaling``, ``reduction_factor`` and ``cross_adapter``.
    """

    kind: str
    options: dict[str, Any]
    tensors: dict[Part, Tensor]


@dataclass(frozen=True)
class Fusion:
    """Parts: ``query.weight``, ``key.weight`` (D, D), their biases (D,), and ``value.weight`` (D, D), which has none.
    It is there also where ``options["value"]`` is False, and then plays no part.

    ``adapters`` are the names of the fused, in the order of the axis N; ``options`` the fields of AdapterHub's
    ``AdapterFusionConfig``.
    """

    kind: str
    adapters: list[str]
    options: dict[str, Any]
    tensors: dict[Part, Tensor]


@dataclass(frozen=True)
class Setting:
    """Adapters in force and the outputs: (B, T, D), (B, S, D) or None, and at each place (B, T or S, N).

    ``composition`` is single, stack (the first listed comes first), fuse (``case.fusions`` has one of the setting's own
    name) or none (of ``case.base``).
    """

    name: str
    composition: str
    adapters: list[str]
    last_hidden_state: Tensor
    encoder_last_hidden_state: Tensor | None
    fusion_weights: dict[Place, Tensor]


@dataclass(frozen=True)
class Case:
    """One tiny model: what it is made of, its inputs, and every setting recorded of it."""

    name: str
    config: dict[str, Any]
    state: dict[str, Tensor]
    inputs: dict[str, Tensor]
    adapters: dict[str, Adapter]
    fusions: dict[str, Fusion]
    base: Setting
    settings: dict[str, Setting]
    made_with: dict[str, str]

    def model(self, **options: Any) -> Any:
        """A new plain model in evaluation mode; every name of the state must match."""
        config = transformers.AutoConfig.for_model(self.name, **self.config)
        model = transformers.AutoModel.from_config(config, **{"attn_implementation": "eager", **options})
        model.load_state_dict(self.state, strict=True)
        return model.eval()

    def worst(self, found: Any, setting: Setting) -> float:
        """Largest difference of a model's output from the recorded one, over tokens that are no padding."""
        sides = [("last_hidden_state", self.inputs.get("decoder_attention_mask", self.inputs["attention_mask"]))]
        if setting.encoder_last_hidden_state is not None:
            sides.append(("encoder_last_hidden_state", self.inputs["attention_mask"]))
        differences = [(found[side] - vars(setting)[side])[mask.bool()].abs().max() for side, mask in sides]
        return float(torch.stack(differences).max())


def _split(whole: Tensor, shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    pieces = whole.split([math.prod(shape) for shape in shapes.values()])
    return {name: piece.reshape(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[tuple[str, ...], Tensor]:
    """What is named ``prefix/...``, by the rest of its name in pieces."""
    return {
        tuple(name.removeprefix(prefix).split("/")): one for name, one in tensors.items() if name.startswith(prefix)
    }


def _setting(name: str, told: dict[str, Any], outputs: dict[str, Tensor]) -> Setting:
    weights: Any = _under(outputs, f"output/{name}/fusion_weights/")
    encoder = outputs.get(f"output/{name}/encoder_last_hidden_state")
    return Setting(name, told["composition"], told["adapters"], outputs[f"output/{name}/last_hidden_state"], encoder,
                   weights)  # fmt: skip


@cache
def load(name: str) -> Case:
    """One of ``CASES``; read once, so its tensors are not to be changed in place."""
    with np.load(HERE / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    told = json.loads(str(arrays.pop("meta")))
    weights = _split(torch.from_numpy(arrays.pop("weights")).float() / 64, told["shapes"]["weights"])
    outputs = _split(torch.from_numpy(arrays.pop("outputs")), told["shapes"]["outputs"])
    adapters: Any = {
        adapter: Adapter(options.pop("kind"), options, _under(weights, f"adapter/{adapter}/"))
        for adapter, options in told["adapters"].items()
    }
    fusions: Any = {
        fusion: Fusion(
            options["kind"], options.pop("adapters"), options, _under(weights, f"fusion/{options.pop('kind')}/")
        )
        for fusion, options in told["fusions"].items()
    }
    return Case(
        name=name, config=told["config"], inputs={key: torch.from_numpy(array) for key, array in arrays.items()},
        state={key: tensor for (key,), tensor in _under(weights, "base/").items()}, adapters=adapters, fusions=fusions,
        base=_setting("base", {"composition": "none", "adapters": []}, outputs), made_with=told["made_with"],
        settings={key: _setting(key, how, outputs) for key, how in told["settings"].items()},
    )  # fmt: skip


def pairs() -> list[tuple[str, str]]:
    """(case, setting) of everything that was recorded with adapters, for `pytest.mark.parametrize`."""
    return [(name, setting) for name in CASES for setting in load(name).settings]
