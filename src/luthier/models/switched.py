"""What of a model is switched while it stands: which attention it runs, and its soft prompt and prefix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor
from transformers import PreTrainedModel

from luthier.models.prefixed import PREFIXED, Switch


class Switched:
    """The part of a ``Backbone`` that does so."""

    model: PreTrainedModel
    soft_prompt: Callable[[], Tensor] | None
    tower_prompt: Callable[[], Tensor] | None = None
    """Virtual tokens in the blocks of a tower (``models/inserted.py``)."""
    layout: str
    unshared_because: str
    prefix_switch: Switch

    @property
    def shares(self) -> bool:
        """Whether what several sequences begin with is computed once; virtual tokens stand before each by itself."""
        return self.layout == "packed" and not self.unshared_because and self.soft_prompt is None

    @contextmanager
    def attention(self, implementation: str) -> Iterator[None]:
        """Run with another attention, such as transformers' own for generation."""
        before = self.model.config._attn_implementation
        self.set_attention(implementation)
        try:
            yield
        finally:
            self.set_attention(before)

    def set_attention(self, implementation: str) -> None:
        if implementation == "sdpa" and self.prefix_switch.on:
            implementation = PREFIXED
        if self.model.config._attn_implementation == implementation:
            return
        if implementation == "sdpa" and not self.model._supports_sdpa:
            implementation = "eager"
        self.model.set_attn_implementation(implementation)

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Without soft prompt and prefix, positions and all: the model as it came."""
        with self.without_prompt(), self.without_prefix():
            yield

    @contextmanager
    def looking(self) -> Iterator[None]:
        """With whatever would let nothing but text through at first let it through."""
        yield

    @contextmanager
    def without_prompt(self) -> Iterator[None]:
        prompts = self.soft_prompt, self.tower_prompt
        self.soft_prompt = self.tower_prompt = None
        try:
            yield
        finally:
            self.soft_prompt, self.tower_prompt = prompts

    @contextmanager
    def without_prefix(self) -> Iterator[None]:
        on, attends = self.prefix_switch.on, self.model.config._attn_implementation
        self.prefix_switch.on = False
        try:
            with self.attention("sdpa" if attends == PREFIXED else attends):
                yield
        finally:
            self.prefix_switch.on = on
