"""What methods share: the base of their options, how a whole model is saved, and how an adapter is.

Every adapter is saved in PEFT's layout, ``adapter_config.json`` and ``adapter_model.safetensors``, with the names
``base_model.model.<name in the model>``. What PEFT knows it opens; what it doesn't, it refuses by its ``peft_type``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import PrivateAttr
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from luthier.models.backbone import Backbone
from luthier.models.sketch import read_tensors
from luthier.options import Options
from luthier.types import Finding, Refused

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
TASK_TYPES = {
    "token_logits": "CAUSAL_LM", "sequence_logits": "SEQ_CLS", "tag_logits": "TOKEN_CLS",
    "span_logits": "QUESTION_ANS", "frame_logits": "FEATURE_EXTRACTION", "hidden": "FEATURE_EXTRACTION",
    "vectors": "FEATURE_EXTRACTION", "action_flow": "FEATURE_EXTRACTION",
}  # fmt: skip


LEAST_ROOM = 8
"""Tokens of a row that virtual ones must leave room for: a word between the tokens that open and close it."""


class MethodOptions(Options):
    """A method's section of a recipe."""

    whole: ClassVar[bool] = True
    """What it saves is a whole model; else the method's module has ``attach``."""
    seam: ClassVar[str] = "weights"
    """Where it attaches: weights, linear, residual, attention, embedding or output. Two at one seam don't combine."""
    nonlinear: ClassVar[str] = ""
    """Why it can't be folded into the model's weights, where it can't; else its module has ``fold``."""
    alone: ClassVar[str] = ""
    """Why it can't be combined with another method, where it can't."""
    whole_model: ClassVar[str] = ""
    """Why it can't be given to one role of a model, where it can't."""
    paths: ClassVar[tuple[str, ...]] = ()
    """Options that name folders of other runs, relative to where the command runs or to the recipe's folder."""
    listed: ClassVar[str] = ""
    """The option that a bare list stands for: ``method: {fusion: [runs/a, runs/b]}``."""
    _base: Path = PrivateAttr(Path("."))
    _steps: int = PrivateAttr(0)

    def lasting(self, steps: int) -> None:
        """Told before ``adapt``: how many optimizer steps the run has."""
        self._steps = steps

    @property
    def steps(self) -> int:
        return self._steps

    def beside(self, base: Path) -> None:
        """Paths are relative to ``base`` where they don't lead anywhere from here."""
        self._base = base

    def located(self, paths: Sequence[str]) -> list[Path]:
        return [Path(path) if Path(path).exists() else self._base / path for path in paths]

    def load_kwargs(self) -> dict[str, Any]:
        """What it asks of ``from_pretrained``."""
        return {}

    def needs(self, objective_needs: str) -> str:
        """What the model must give: what the objective needs, or less."""
        return objective_needs

    def defaults(self) -> dict[str, Any]:
        """Values of the recipe that suit these options, where the method's own ``DEFAULTS`` don't."""
        return {}

    def positions(self, backbone: Backbone) -> int:
        """How many of the model's positions it takes from every row."""
        return 0


def task_type(backbone: Backbone) -> str | None:
    """The kind of model as PEFT calls it; none for a role, so that PEFT looks for no head beside it."""
    if backbone.role:
        return None
    writes_from_source = backbone.encoder_decoder and backbone.needs == "token_logits"
    return "SEQ_2_SEQ_LM" if writes_from_source else TASK_TYPES[backbone.needs]


def save_whole(backbone: Backbone) -> Callable[[Path], None]:
    """Save as ``save_pretrained`` does, for `AutoModel...from_pretrained`."""

    def save(folder: Path) -> None:
        backbone.model.save_pretrained(folder)

    return save


def require_room(backbone: Backbone, taken: int, where: str) -> None:
    """Raises Refused where ``taken`` positions leave none for text."""
    positions = backbone.max_positions
    if positions is None or positions - taken >= LEAST_ROOM:
        return
    what = f"{taken} virtual tokens leave no room for text: this model has {positions} positions"
    raise Refused(Finding("method.no-room", where, what, f"give at most {positions - LEAST_ROOM}"))


def new_head(backbone: Backbone) -> dict[str, nn.Parameter]:
    """What must train beside an adapter: a classifier's head, where a language model keeps its own; what is new between
    two towers."""
    return backbone.head_parameters() if backbone.has_own_head else backbone.joining_parameters()


def head_modules(backbone: Backbone, head: Mapping[str, nn.Parameter]) -> list[str]:
    """The modules that hold ``head``: whole ones outside the trunk (PEFT saves a head whole and can't nest in it)."""
    outside = set(backbone.seams.head)
    return sorted({top if (top := name.partition(".")[0]) in outside else name.rpartition(".")[0] for name in head})


def save_adapter(
    folder: Path, backbone: Backbone, config: dict[str, Any], tensors: Mapping[str, Tensor],
    head: Mapping[str, nn.Parameter],
) -> None:  # fmt: skip
    """Write ``tensors``, under the names that the file shall have, and ``head``.

    ``config`` needs ``peft_type``; what is the same for every adapter is added.
    """
    folder.mkdir(parents=True, exist_ok=True)
    named = {**by_file_name(head), **tensors}
    shared = {"task_type": task_type(backbone), "base_model_name_or_path": backbone.path}
    settings = shared | config | {"inference_mode": True}
    if head:
        settings["modules_to_save"] = head_modules(backbone, head)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(settings, indent=2, default=_plain), encoding="utf-8")


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(config, tensors) of a saved adapter. Raises Refused where it is missing or damaged."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return config, read_tensors(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        what = f"no adapter can be read here: {str(error).splitlines()[0]}"
        raise Refused(Finding("adapter.unreadable", str(folder), what, "give the `final` folder of a run")) from None


@torch.no_grad()
def restore(places: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copy saved tensors to the places of their names. Raises Refused where one has no place, or a place gets none."""
    wrong = [n for n, tensor in tensors.items() if n not in places or places[n].shape != tensor.shape]
    empty = [n for n in places if n not in tensors]
    if wrong or empty:
        what = (
            f"{len(wrong)} tensor(s) of the adapter do not fit here, and {len(empty)} place(s) of this model stay empty"
        )
        where = ", ".join((wrong + empty)[:3])
        raise Refused(Finding("adapter.mismatch", where, what, "use the base model that it was trained on"))
    for name, tensor in tensors.items():
        places[name].copy_(tensor)


def by_file_name(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names that a file of an adapter has for them."""
    return {f"{PREFIX}{name}": parameter for name, parameter in parameters.items()}


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else value.value if isinstance(value, Enum) else str(value)
