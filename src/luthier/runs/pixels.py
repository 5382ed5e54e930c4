"""Which backend makes the pixels of a run's pictures: settled before the first step, kept in its recipe, and asked for
again wherever the run is opened.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from luthier.models.backbone import Backbone
from luthier.models.vision.pictures import backend_of
from luthier.models.vision.pixels import AUTO
from luthier.recipe import ResolvedRecipe
from luthier.runs.run import read_info
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


def stopped_otherwise(resolved: ResolvedRecipe, folder: Path) -> list[Finding]:
    """A run that was stopped in ``folder`` and would not go on, as the machine chooses another backend than its own."""
    path, made = folder / "run.json", resolved.recipe.image_backend
    if made == AUTO or resolved.origins.get("image_backend") != "machine" or not path.is_file():
        return []
    info = read_info(path)
    before = info.get("machine", {}).get("image_backend")
    if info["status"] == "finished" or before in (None, made):
        return []
    what = f"the run that was stopped in {folder} learned from pictures as {before} reads them, and here {made} does"
    mend = f"set `image_backend: {before}` to go on with it"
    return [Finding(CODE, "image_backend", what, mend, "another run begins beside it", "warning")]


def warn_of_others(trained: str, backbone: Backbone) -> None:
    """Where a run's model is opened: ``trained`` is what made the pixels it learned from."""
    made = backend_of(backbone.pictures)
    if made and trained not in (AUTO, made):
        what = f"{backbone.name} learned from pictures as {trained} reads them, and here {made} does: pixels differ"
        text = f"{what} {APART}. Install {trained} for the same ones [{CODE}]"
        warnings.warn(text, OtherPixels, stacklevel=2)
