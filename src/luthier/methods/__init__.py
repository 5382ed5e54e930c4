"""⊂θ ∪ Δ: which numbers train. One file per method, one line here.

A method module has ``Options`` (its section of a recipe), ``DEFAULTS`` (recipe values that suit it) and
``adapt(backbone, options) -> Adaptation``. Where what it saves is not a whole model, ``attach(backbone, folder)`` puts
it back on the pretrained one. It never asks which loss is used, and never sets ``requires_grad``.
"""

from luthier.registry import Registry

METHODS = Registry(
    full="luthier.methods.full",
    freeze="luthier.methods.freeze",
    features="luthier.methods.features",
    lora="luthier.methods.lora",
    prompt="luthier.methods.prompt",
    prefix="luthier.methods.prefix",
)
