"""⊂θ ∪ Δ: which numbers train. One file per method, one line here.

A method module has ``Options`` (its section of a recipe), ``DEFAULTS`` (recipe values that suit it) and
``adapt(backbone, options) -> Adaptation``. Where what it saves is not a whole model, ``attach(backbone, folder)`` puts
it back on the pretrained one. It never asks which loss is used, and never sets ``requires_grad``.
"""

from typing import Any

from luthier.registry import Registry

METHODS = Registry(
    full="luthier.methods.full",
    freeze="luthier.methods.freeze",
    features="luthier.methods.features",
    lora="luthier.methods.lora",
    ia3="luthier.methods.ia3",
    adapter="luthier.methods.adapter",
    fusion="luthier.methods.fusion",
    prompt="luthier.methods.prompt",
    prefix="luthier.methods.prefix",
)

# What the field calls by a name of its own and is a method with an option set: `method: dora`.
SHORT_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "bitfit": ("freeze", {"train": ["biases"]}),
    "probe": ("freeze", {"train": ["head"]}),
    "rslora": ("lora", {"rslora": True}),
    "dora": ("lora", {"variant": "dora"}),
    "pissa": ("lora", {"variant": "pissa"}),
    "adalora": ("lora", {"variant": "adalora"}),
    "vera": ("lora", {"variant": "vera"}),
    "oft": ("lora", {"variant": "oft"}),
    "qlora": ("lora", {"quantize": "nf4"}),
    "houlsby": ("adapter", {"kind": "houlsby"}),
    "pfeiffer": ("adapter", {"kind": "pfeiffer"}),
    "parallel": ("adapter", {"kind": "parallel"}),
}
