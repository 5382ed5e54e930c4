"""Full fine-tuning: every number trains."""

from __future__ import annotations

from typing import ClassVar

from luthier.methods.common import MethodOptions, save_whole
from luthier.models.backbone import Backbone
from luthier.models.modes import batch_norms
from luthier.types import Adaptation

DEFAULTS = {"learning_rate": 5e-5}


class Options(MethodOptions):
    alone: ClassVar[str] = "`full` trains every number already: there is nothing to add"


def adapt(backbone: Backbone, options: Options) -> Adaptation:
    norms = batch_norms(backbone.named_modules())
    return Adaptation("full", dict(backbone.named_parameters()), save_whole(backbone), batch_norms=norms)
