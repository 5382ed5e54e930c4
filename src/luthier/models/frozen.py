"""A model that is only read beside the one that trains: in evaluation mode, without gradients.

Where it is the very model that trains, without its adapter, no second copy of the weights is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from luthier.models.backbone import Backbone
from luthier.models.modes import evaluating
from luthier.types import Features


@dataclass
class Frozen:
    """``base`` is entered while it is read; ``fingerprint`` tells its weights from others, head and adapters too.

    ``columns`` puts a classifier's outputs into the order of the classes of the model that trains; ``encode`` makes its
    row of an example, where tokenizer or processor make another than that one's.
    """

    backbone: Backbone
    name: str
    fingerprint: str
    base: Callable[[], AbstractContextManager[Any]] = nullcontext
    columns: Sequence[int] | None = None
    encode: Callable[[Any], Features] | None = field(default=None, repr=False)

    @contextmanager
    def reading(self) -> Iterator[Backbone]:
        with torch.no_grad(), self.base(), evaluating(self.backbone.model):
            yield self.backbone
