"""Full fine-tuning: every number trains."""

from __future__ import annotations

from luthier.methods.common import MethodOptions, save_whole
from luthier.models.backbone import Backbone
from luthier.types import Adaptation

DEFAULTS = {"learning_rate": 5e-5}


class Options(MethodOptions):
    pass


def adapt(backbone: Backbone, options: Options) -> Adaptation:
    return Adaptation("full", dict(backbone.model.named_parameters()), save_whole(backbone))
