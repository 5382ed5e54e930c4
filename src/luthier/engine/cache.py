"""What doesn't change is computed once: hidden states of a frozen trunk, kept on disk under a key of their content.

The key holds the trunk's numbers, the rows' ids and what is read of them: change any and it is another file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from luthier.engine.parallel import Processes
from luthier.types import Features

COMPUTED = ("row", "where", "hidden_LD", "teacher_logits", "reference")


def content_key(trunk: nn.Module, rows: Sequence[Features], *settings: str) -> str:
    digest = hashlib.sha256("|".join(settings).encode())
    for name, tensor in sorted(trunk.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    digest.update(rows_hash(rows).encode())
    return digest.hexdigest()[:32]


def rows_hash(rows: Sequence[Features]) -> str:
    """sha256 of encoded rows: ids, targets, supervision and weights; not of where they stand, nor of what was
    computed from them."""
    digest = hashlib.sha256()
    for row in rows:
        told = [(key, row[key]) for key in sorted(row) if key not in COMPUTED]
        digest.update(repr(told).encode())
    return digest.hexdigest()


def cached(folder: Path, key: str, compute: Callable[[], list[Tensor]]) -> list[Tensor]:
    """The tensors under ``key``, or those that ``compute`` makes, which are then kept."""
    path = folder / f"{key}.safetensors"
    if path.is_file():
        try:
            found = load_file(path)
            return list(found["values"].split(found["lengths"].tolist()))
        except (SafetensorError, KeyError, RuntimeError):
            path.unlink()  # a torn file: compute again
    values = compute()
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    save_file({"values": torch.cat(values).contiguous(), "lengths": torch.tensor([len(v) for v in values])}, partial)
    os.replace(partial, path)
    return values


def cached_once(folder: Path, key: str, compute: Callable[[], list[Tensor]], processes: Processes) -> list[Tensor]:
    """The same for several processes: the main one computes, and the others read what it kept."""
    if processes.main:
        cached(folder, key, compute)
    processes.barrier()
    return cached(folder, key, compute)
