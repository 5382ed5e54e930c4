"""(IA)³: keys, values and the inside of the feed-forward are rescaled by trained vectors (Liu et al. 2022).

    k ← l_k ⊙ k,   v ← l_v ⊙ v,   W₂ (l_ff ⊙ f(W₁ x))        (arXiv 2205.05638, section 3.3)

PEFT injects the vectors. Where keys and values leave one joined matrix (GPT-2, ModernBERT), that is rescaled whole,
queries too.
"""

from __future__ import annotations

from typing import ClassVar

from peft import IA3Config
from pydantic import Field

from luthier.methods.common import MethodOptions
from luthier.methods.injected import adaptation, attach, conv1d, fold, inject
from luthier.models.backbone import Backbone
from luthier.types import Adaptation

__all__ = ["DEFAULTS", "Options", "adapt", "attach", "fold"]

DEFAULTS = {"learning_rate": 1e-2}


class Options(MethodOptions):
    whole: ClassVar[bool] = False
    seam: ClassVar[str] = "linear"
    targets: list[str] | None = Field(
        None, description="layers whose output (feed-forward: input) is rescaled; default: keys, values, feed-forward"
    )


def adapt(backbone: Backbone, options: Options) -> Adaptation:
    seams = backbone.seams
    if options.targets is None:
        last = {sublayer.last for sublayer in seams.feed_forwards}
        chosen = [linear for linear in seams.linears if linear.roles & {"key", "value", "qkv"} or linear.name in last]
    else:
        chosen = seams.linears_by_role(options.targets)
    targets = [linear.name for linear in chosen]
    config = IA3Config(
        target_modules=targets,
        feedforward_modules=[linear.name for linear in chosen if "feed_forward" in linear.roles],
        fan_in_fan_out=conv1d(backbone, targets),
    )
    return adaptation("ia3", backbone, config, inject(backbone, config))
