"""Which backend makes the pixels of a run's pictures: settled before the first step, kept in its recipe, and asked for
again wherever the run is opened.
"""

from __future__ import annotations

import warnings

from luthier.models.backbone import Backbone
from luthier.models.pictures import backend_of
from luthier.models.pixels import AUTO
from luthier.recipe import ResolvedRecipe
from luthier.types import Finding, Refused

CODE = "model.image-backend"
APART = "by up to 0.0004 on the mean of photographs and 0.15 at single values, of a spread of 1"
"""What docs/pictures.md states, from benchmarks/vision_backends.py."""


class OtherPixels(UserWarning):
    """A run is opened whose pictures another backend makes than the one it was trained on."""


def settle_backend(resolved: ResolvedRecipe, backbone: Backbone) -> None:
    """Write into the recipe which it is. Raises Refused where the recipe asks for one that is not to be had."""
    wanted, made = resolved.recipe.image_backend, backend_of(backbone.pictures)
    if made and wanted == AUTO:
        resolved.set("image_backend", made, "machine")
    elif made and wanted != made:
        what = f"pictures are to be read by {wanted}, and here it is {made} that reads them for this model"
        mend = f"install {wanted}, or set `image_backend: auto`: pixels differ {APART}"
        raise Refused(Finding(CODE, "image_backend", what, mend))


def warn_of_others(trained: str, backbone: Backbone) -> None:
    """Where a run's model is opened: ``trained`` is what made the pixels it learned from."""
    made = backend_of(backbone.pictures)
    if made and trained not in (AUTO, made):
        what = f"{backbone.name} learned from pictures as {trained} reads them, and here {made} does: pixels differ"
        text = f"{what} {APART}. Install {trained} for the same ones [{CODE}]"
        warnings.warn(text, OtherPixels, stacklevel=2)
