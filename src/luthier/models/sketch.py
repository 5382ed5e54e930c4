"""A backbone without weights: a config's architecture in fake tensors, and a miniature that answers for its habits.

Shapes and sizes are the real model's; nothing is held in memory. What the engine learns by running a model (whether
rows can be packed, whether it is causal, which positions a head reads) is asked of a miniature: the same architecture
with two layers, a narrow width and random weights. Where no miniature runs, ``assumed`` says what is taken for granted.
"""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from transformers.initialization import no_init_weights

from luthier.models import load as opening
from luthier.models.attention import PACKED, PACKED_AS_ON_GPU, register
from luthier.models.backbone import Backbone
from luthier.models.ears import hears
from luthier.models.locate import WEIGHTS_ONLY
from luthier.models.locate import locate as locate_files
from luthier.types import Finding, Refused

LAYERS, HEADS, HEAD_WIDTH, VOCABULARY = 2, 2, 16, 256


@dataclass
class Sketch(Backbone):
    """A Backbone of fake tensors. ``miniature`` stands in where the model must be run to learn something of it."""

    miniature: Backbone | None = None
    on_gpu: bool = False
    assumed: list[str] = field(default_factory=list)

    def place(self, device: torch.device) -> None:
        """Fake tensors stay where they are: sizes are the same everywhere."""

    def choose_layout(self, packing: str) -> None:
        """As the miniature packs; without one, packed where it is asked for or left open."""
        self.layout, self.unpacked_because = "padded", "turned off"
        if packing == "off":
            return
        if self.miniature is not None:
            with unset_fake_temporarily():
                self.miniature.choose_layout(packing)
            self.layout, self.position_offset = self.miniature.layout, self.miniature.position_offset
            self.unpacked_because = self.miniature.unpacked_because
        else:
            self.layout, self.unpacked_because = "packed", ""
            self.assumed.append("rows can be packed")
        if self.layout == "packed":
            self.set_attention(PACKED_AS_ON_GPU if self.on_gpu else PACKED)


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
    config: dict[str, Any] | None = None, dtype: str = "float32", seed: int = 0, **_: Any,
) -> Sketch:  # fmt: skip
    """A Sketch with the head that ``needs`` asks for. Raises Refused where config or tokenizer can't be read."""
    if needs == "vectors":
        what = "a plan of models that compare pictures with texts is not there yet"
        mend = "run it: what does not fit in memory at once is cut into micro-batches, with the same result"
        raise Refused(Finding("plan.untraceable", "model.name", what, mend))
    transformers.logging.set_verbosity_error()
    register()
    where = {"revision": revision} if revision else {}
    try:
        read = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False, **where, **(config or {}))
        if hears(read):
            what, mend = "a plan of models that hear is not there yet", "run it: what does not fit in memory is cut"
            raise Refused(Finding("plan.untraceable", "model.name", what, mend))
        auto = opening.auto_class(needs, read)
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False, **where)
        with fake, no_init_weights():
            model = auto.from_config(copy.deepcopy(read), dtype=getattr(torch, dtype))
            model.tie_weights()
    except (OSError, ValueError) as error:
        raise Refused(opening.unreadable(name, error, needs)) from None
    sketch = Sketch(model, tokenizer, name, path, needs, _fresh(model, Path(path)), on_gpu=on_gpu)
    opening.give_pad(sketch)
    with unset_fake_temporarily():
        sketch.miniature = _miniature(auto, read, sketch)
    _ask(sketch)
    return sketch


def _ask(sketch: Sketch) -> None:
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


def _miniature(auto: Any, config: Any, sketch: Sketch) -> Backbone | None:
    """A small random model of the same architecture that runs, or None."""
    for shrink in (_narrow, _shallow):
        try:
            small = shrink(copy.deepcopy(config))
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = auto.from_config(small, dtype=torch.float32)
                _widen(model)
            made = Backbone(model.eval(), sketch.tokenizer, sketch.name, sketch.path, sketch.needs)
            _ = made.causal  # it runs, and its head too
            if sketch.needs == "sequence_logits":
                _ = made.reads
            return made
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError, AssertionError):
            continue
    return None


def _shallow(config: Any) -> Any:
    """Two layers and a small vocabulary; widths as they are."""
    text = config.get_text_config()
    period = getattr(text, "global_attn_every_n_layers", None) or getattr(text, "sliding_window_pattern", None) or 1
    layers = min(text.num_hidden_layers, max(LAYERS, period if isinstance(period, int) else 1))
    text.num_hidden_layers = layers
    for key in ("layer_types", "mlp_layer_types"):
        if getattr(text, key, None):
            setattr(text, key, getattr(text, key)[:layers])
    text.vocab_size = VOCABULARY
    for key in list(vars(text)):
        if key.endswith("_token_id") and isinstance(getattr(text, key), int) and getattr(text, key) >= VOCABULARY:
            setattr(text, key, 0)
    return config


def _narrow(config: Any) -> Any:
    """Two narrow layers: the proportions of heads to key-value heads are kept where there are such."""
    text = _shallow(config).get_text_config()
    grouped = getattr(text, "num_key_value_heads", None)
    if grouped is not None:
        text.num_key_value_heads = HEADS if grouped == text.num_attention_heads else 1
    text.num_attention_heads, text.hidden_size = HEADS, HEADS * HEAD_WIDTH
    if getattr(text, "head_dim", None) is not None:
        text.head_dim = HEAD_WIDTH
    if getattr(text, "intermediate_size", None) is not None:
        text.intermediate_size = 3 * HEAD_WIDTH
    return config


def _widen(model: nn.Module) -> None:
    """Weights drawn wide, so that hidden states differ by their input as a trained model's do."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=0.2)


def _fresh(model: nn.Module, folder: Path) -> set[str]:
    """Parameters that the weight files, where they are here, don't hold: those of a new head, say."""
    held = _names(folder)
    if not held:
        return set()
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    bare = {name.removeprefix(prefix) for name in held}
    return {name for name, _ in model.named_parameters() if name not in held and name.removeprefix(prefix) not in bare}


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
