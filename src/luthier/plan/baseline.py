"""What the process itself takes: the interpreter with torch, transformers and the rows; measured, not reckoned.

The plan's own process has imported what a run imports and has read and encoded the same rows, so its resident memory
is the run's, before any weight. A small real step is taken first, for what libraries set aside when they first compute.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily


def resident(prepared: Any) -> float:
    """Bytes resident in this process now."""
    with unset_fake_temporarily():
        _warm()
    if prepared.objective.needs not in ("token_logits", "vectors"):
        import sklearn.linear_model
        import sklearn.metrics  # noqa: F401  what a classifier is judged with
    status = Path("/proc/self/status")
    if not status.is_file():
        from luthier.engine.recovery import peak_memory_mb

        return peak_memory_mb(torch.device("cpu")) * 2.0**20
    lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines() if ":" in line)
    return float(lines["VmRSS"].split()[0]) * 1024


def _warm() -> None:
    """A step of one layer: matrix product, attention, norm, loss, backward, AdamW."""
    with torch.random.fork_rng():
        layer = torch.nn.TransformerEncoderLayer(64, 2, 128, batch_first=True)
        optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
        with torch.enable_grad():
            out = layer(torch.randn(4, 32, 64)).flatten(0, 1)
            torch.nn.functional.cross_entropy(out, torch.zeros(len(out), dtype=torch.long)).backward()
        optimizer.step()
