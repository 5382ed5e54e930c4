"""The machine can hold what the run will write."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.types import Finding

if TYPE_CHECKING:
    from luthier.runs.prepared import Prepared

# A checkpoint holds the weights and AdamW's two moments; one more is written before the oldest goes.
COPIES_OF_WEIGHTS = 3


def disk_space(prepared: Prepared) -> list[Finding]:
    trainable = sum(p.numel() * 4 for p in prepared.adaptation.parameters.values())
    needed = trainable * COPIES_OF_WEIGHTS * (prepared.resolved.recipe.keep + 2) + trainable
    folder = Path(prepared.resolved.recipe.out).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed <= free:
        return []
    what = f"the run needs about {needed / 2**20:,.0f} MB for checkpoints, {folder} has {free / 2**20:,.0f} MB"
    return [Finding("machine.disk", "out", what, "free some space, choose another `out:`, or lower `keep`")]
