"""A backbone without weights: a config's architecture in fake tensors, and a miniature that answers for its habits.

Shapes and sizes are the real model's; nothing is held in memory. What the engine learns by running a model (whether
rows can be packed, whether it is causal, which positions a head reads) is asked of a miniature (``miniature.py``): the
same architecture, small, with random weights. Where none runs, ``assumed`` says what is taken for granted.
"""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, rename_source_key
from transformers.initialization import no_init_weights

from luthier.data.lengths import sequences
from luthier.models import load as opening
from luthier.models.attention import PACKED, PACKED_AS_ON_GPU, register
from luthier.models.audio.recordings import Recordings
from luthier.models.joined.compose import Towers, is_bare
from luthier.models.joined.dual import DualBackbone, contents
from luthier.models.joined.multimodal import MultimodalBackbone, text_key
from luthier.models.joined.registered import register_composed
from luthier.models.locate import WEIGHTS_ONLY
from luthier.models.locate import locate as locate_files
from luthier.models.miniature import TEXT, built, miniature
from luthier.models.vision.images import image_tower
from luthier.types import Batch, Features, Finding, Refused


class Sketched:
    """Laid over a kind of Backbone: its parameters are fake tensors, and ``miniature``, of the same kind, stands in
    where the model must be run to learn something of it. ``assumed`` is what there was no miniature to ask. Kinds that
    are not asked of rows of text are padded, whatever they are asked."""

    miniature: Any = None
    on_gpu = False
    assumed: list[str]
    pooled: bool

    def place(self, device: torch.device) -> None:
        """Fake tensors stay where they are: sizes are the same everywhere."""

    def choose_layout(self: Any, packing: str) -> None:
        """As the miniature packs; without one, packed where it is asked for or left open."""
        self.layout, self.unpacked_because = "padded", "turned off"
        if packing == "off":
            return
        if self.miniature is not None:
            with unset_fake_temporarily():
                self.miniature.choose_layout(packing)
            self.layout, self.position_offset = self.miniature.layout, self.miniature.position_offset
            self.unpacked_because = self.miniature.unpacked_because
            self.unshared_because = self.miniature.unshared_because
        elif self.pictures is None and self.sounds is None:
            self.layout, self.unpacked_because = "packed", ""
            self.assumed.append("rows can be packed")
        elif not isinstance(self, MultimodalBackbone):
            super().choose_layout(packing)  # type: ignore[misc]
        if self.layout == "packed":
            self.set_attention(PACKED_AS_ON_GPU if self.on_gpu else PACKED)

    def logit_value(self, name: str) -> float:
        """Not known without weights."""
        return 0.0

    def _head_agrees(self) -> bool:
        """Of a model of pictures or sounds alone: in the state in which the miniature's head agreed."""
        return self.miniature is None or bool(self.pooled == self.miniature.pooled)

    def _bears_pads(self) -> bool:
        asked = self.miniature
        return asked is None or not (getattr(asked, "fixed", 0) or getattr(asked, "apart", False))


@contextmanager
def sketching(fake: FakeTensorMode) -> Iterator[None]:
    """Within it new tensors are fake, and modules that hold them can be moved and cast.

    ``Module.to`` swaps a fake parameter with what it becomes, which torch forbids while its mode refers to it; here the
    parameter is replaced where it changes, and left where it does not.
    """
    before = nn.Module._apply

    def apply(module: nn.Module, fn: Callable[..., Any], recurse: bool = True) -> nn.Module:
        for child in module.children() if recurse else ():
            child._apply(fn)
        for key, parameter in module._parameters.items():
            if parameter is not None:
                with torch.no_grad():
                    applied = fn(parameter)
                if applied.dtype != parameter.dtype:
                    module._parameters[key] = nn.Parameter(applied, parameter.requires_grad)
        for key, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[key] = fn(buffer)
        return module

    nn.Module._apply = apply  # type: ignore[assignment, method-assign]
    try:
        with fake:
            yield
    finally:
        nn.Module._apply = before  # type: ignore[method-assign]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file as they are, within ``sketching`` too: safetensors can't make fake ones."""
    with unset_fake_temporarily():
        return load_file(path)


def locate(name: str, base: Path) -> tuple[str, list[Finding]]:
    """As ``load.locate``, but a folder with config.json and a tokenizer is enough."""
    path, findings = locate_files(name, base)
    has_config = (Path(path) / "config.json").is_file()
    return path, [finding for finding in findings if not (has_config and finding.code in WEIGHTS_ONLY)]


def load(
    name: str, path: str, needs: str, *, fake: FakeTensorMode, on_gpu: bool = False, revision: str | None = None,
    config: dict[str, Any] | None = None, dtype: str = "float32", seed: int = 0, image_backend: str = "auto", **_: Any,
) -> Any:  # fmt: skip
    """A Backbone of fake tensors with the head that ``needs`` asks for. Raises Refused where config, tokenizer or
    processor can't be read."""
    transformers.logging.set_verbosity_error()
    register()
    register_composed()
    where = {"revision": revision} if revision else {}
    told = dict(config or {})
    letters = told.pop("letters", None)
    try:
        found = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False, **where)
        if (tower := image_tower(found, needs)) is not None:
            tower.update(told)
            found = tower
        auto = opening.auto_class(needs, found)
        with unset_fake_temporarily():
            reading = opening.read_by(path, found, needs, letters, image_backend, **where)
        for readers in filter(None, (reading.pictures, reading.sounds)):
            readers = readers.sounds if isinstance(readers, Recordings) else readers
            readers.processor = Unsketched(readers.processor)
        told |= reading.more
        read = tower or transformers.AutoConfig.from_pretrained(path, trust_remote_code=False, **where, **told)
        with fake, no_init_weights():
            model = drawn(auto, read, dtype)
    except (OSError, ValueError) as error:
        raise Refused(opening.unreadable(name, error, needs)) from None
    kind, beside = opening.kind_of(needs, reading)
    with unset_fake_temporarily():
        small = miniature(auto, read, kind, (reading.tokenizer, name, path, needs), **beside)
    laid_over: Any = type(f"Sketched{kind.__name__}", (Sketched, kind), {"miniature": small, "on_gpu": on_gpu})
    sketch = laid_over(model, reading.tokenizer, name, path, needs, _fresh(model, Path(path)), **beside)
    sketch.assumed = []
    if sketch.reads_text:
        opening.give_pad(sketch)
    _ask(sketch)
    if kind not in TEXT:  # it has the size of a real one, and there is nothing more to ask
        laid_over.miniature = None
    return sketch


class Unsketched:
    """A processor that is run on real numbers in the midst of a sketch: it may compute with torch inside."""

    def __init__(self, processor: Any):
        self._processor = processor

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with unset_fake_temporarily():
            return self._processor(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)


def drawn(auto: Any, config: Any, dtype: str = "float32") -> Any:
    """A model of this config in tensors without numbers."""
    model = built(auto, copy.deepcopy(config), getattr(torch, dtype))
    model.tie_weights()
    return model


def towers(random: bool) -> Towers:
    """How a composed model's towers are sketched. ``random``: those without weights are drawn, and not here yet."""

    def opened(path: str, auto: Any, config: Any) -> Any:
        with no_init_weights():
            return drawn(auto, config)

    return Towers(opened, is_bare if random else lambda path: False, _write_names, no_init_weights)


def _write_names(names: Iterable[str], path: Path) -> None:
    """A file of weights with nothing in it but their names."""
    with unset_fake_temporarily():
        save_file({name: torch.zeros(0) for name in names}, path, {"format": "pt"})


def remember(backbone: Any, rows: list[Features], some: list[Features], batch: Batch, roles: set[str]) -> int:
    """Let frozen towers, by role, read ``some`` rows of ``rows``, and take what the others give to be as large. Returns
    the bytes that are held of it; states of a model that reads pictures beside text lie in a file."""
    if isinstance(backbone, DualBackbone):
        backbone.remember(some, batch, roles)
        like = {type(key): states for key, states in backbone.memory.items()}
        keys, texts = contents(rows)
        backbone.memory |= {key: like[type(key)] for key in (*keys, *texts) if type(key) in like}
        return sum(states.nbytes for states in backbone.memory.values())
    trunk, pictures = backbone.trunk, backbone.pictures
    shapes: dict[str, tuple[int, ...]] = {}
    if backbone.first_role in roles and "pixel_values" in batch.tensors:
        wide = trunk.seen(batch["pixel_values"])[0].shape[2]
        shapes |= {key: (backbone.states_of(key), wide) for row in rows for key in row.get("pictures", ())}
    if "text" in roles:
        mask_KL = batch["attention_mask"]
        wide = trunk.text(input_ids=batch["input_ids"], attention_mask=mask_KL).last_hidden_state.shape[2]
        parts = [part for row in rows for part in sequences(row)]
        shapes |= {text_key(part): (len(part["input_ids"]), wide) for part in parts}
    pictures.pretend(shapes)
    return 0


def _ask(sketch: Any) -> None:
    """Fill what the real model would be run for."""
    if sketch.miniature is None:
        sketch.causal = sketch.needs == "token_logits" or bool(getattr(sketch.model.config, "is_decoder", False))
        sketch.reads = "all"
        sketch.assumed += [f"{'causal' if sketch.causal else 'not causal'}", "the head reads all positions"]
        return
    with unset_fake_temporarily():
        sketch.causal = sketch.miniature.causal
        if sketch.needs == "sequence_logits":
            sketch.reads = sketch.miniature.reads


def _fresh(model: Any, folder: Path) -> set[str]:
    """Parameters that the weight files, where they are here, don't hold: those of a new head, say."""
    held = _names(folder)
    if not held:
        return set()
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    bare = {name.removeprefix(prefix) for name in held | _as_named(model, held)}
    return {name for name, _ in model.named_parameters() if bare.isdisjoint(_as_written(model, name, prefix))}


def _as_named(model: Any, held: set[str]) -> set[str]:
    """What the names in a checkpoint are called in this version of transformers."""
    renamings, converters = _transforms(model)
    return {rename_source_key(name, renamings, converters)[0] for name in held}


def _as_written(model: Any, name: str, prefix: str) -> set[str]:
    """What a parameter may be called in a checkpoint, without the name of the trunk."""
    transforms = [one.reverse_transform() for several in _transforms(model) for one in several]
    renamings = [one for one in transforms if not isinstance(one, WeightConverter)]
    converters = [one for one in transforms if isinstance(one, WeightConverter)]
    written = rename_source_key(name, renamings[::-1], converters[::-1], reverse=True)[0]
    return {one.removeprefix(prefix) for one in (name, written)}


def _transforms(model: Any) -> tuple[list[Any], list[Any]]:
    found = get_model_conversion_mapping(model)
    return ([one for one in found if not isinstance(one, WeightConverter)],
            [one for one in found if isinstance(one, WeightConverter)])  # fmt: skip


def _names(folder: Path) -> set[str]:
    """The tensors that a folder's safetensors files hold, told by their headers alone."""
    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            head = file.read(8)
            try:
                names |= json.loads(file.read(struct.unpack("<Q", head)[0])).keys() - {"__metadata__"}
            except (ValueError, struct.error, OverflowError, MemoryError):
                return set()
    return {name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
            for name in names}  # fmt: skip
