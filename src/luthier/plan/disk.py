"""What a run writes: checkpoints, the final model, the cache of a frozen trunk's hidden states."""

from __future__ import annotations

from pathlib import Path

from luthier.plan.memory import Footprint
from luthier.runs.prepared import Prepared

COPIES = 3  # a checkpoint holds the weights that train and AdamW's two moments, all fp32


def needed(prepared: Prepared, found: Footprint) -> dict[str, float]:
    """Bytes by what they are for. ``checkpoints``: the newest, the best, and one that is being written."""
    recipe = prepared.resolved.recipe
    steps = 0 if prepared.adaptation.solve is not None else int(recipe.steps or 1)
    saves = steps // max(1, int(recipe.save_every or 1)) + 1
    one = found.trainable * 4 * COPIES
    kept = min(recipe.keep + 1 + (1 if prepared.evaluation.rows else 0), saves) if steps else 0
    whole = prepared.resolved.methods.whole
    numbers = sum(p.numel() * p.element_size() for p in prepared.weights) if whole else found.trainable * 4
    folder = Path(prepared.backbone.path)
    vocabulary = sum(path.stat().st_size for path in folder.glob("token*.json")) if folder.is_dir() else 0
    disk = {"checkpoints": float(one * kept), "final": float(numbers + vocabulary), "cache": float(found.cache_bytes)}
    return {name: size for name, size in disk.items() if size}
