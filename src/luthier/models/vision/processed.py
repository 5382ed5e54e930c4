"""The pictures of a vision-language model's rows, as its own processor makes them: tensors by name, and the tokens that
each picture is in a row. Each different one is processed once, and kept in a file that has no name.

What the processor writes in place of a picture's mark is asked of it, between two words whose tokens are known. So a
picture may be a fixed number of tokens, as many as its size asks for, or several tiles with tokens between them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from luthier.data.media.pictures import BadPicture, decode
from luthier.models.joined.scratch import Place
from luthier.models.vision.pictures import Pictures
from luthier.types import Finding, Picture, Refused

BESIDE = "x"
TEXT_TENSORS = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}


@dataclass
class ProcessedPictures(Pictures):
    """``image_id`` is the token that a picture's hidden states take the place of; ``mark`` what a text names one by;
    ``names`` those of the tensors; ``one_answer``: a row is a prompt and one answer, and no conversation."""

    one_answer: ClassVar[bool] = False
    image_id: int = -1
    mark: str = ""
    mark_id: int = -1
    names: set[str] = field(default_factory=set)
    _arrays: dict[str, dict[str, Place]] = field(default_factory=dict)
    _tokens: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mark, self.mark_id = self._find_mark()

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    def _find_mark(self) -> tuple[str, int]:
        """The one of the processor's special tokens that it replaces by pictures. Raises Refused."""
        from PIL import Image

        grey = Image.new("RGB", (64, 64), "grey")
        names = ("boi_token", "image_token", "start_of_image_token")
        told = [str(getattr(self.processor, name)) for name in names if getattr(self.processor, name, None)]
        for mark in told:
            try:
                tokens, _ = self._processed(grey, mark)
            except (ValueError, TypeError, IndexError, KeyError):
                continue
            if self.image_id in tokens:
                return mark, int(self.tokenizer.convert_tokens_to_ids(mark))
        what = f"{type(self.processor).__name__} does not put a picture where its mark stands in a text"
        mend = "choose a model such as LLaVA, Idefics3 or Gemma 3, or compose one: `model: {image: ..., text: ...}`"
        raise Refused(Finding("model.processor", "model.name", what, mend))

    def check_scores(self) -> None:
        """Raises Refused where a row can't be scored as one sequence."""
        if self.one_answer:
            kind = type(self.processor).__name__
            what = f"{kind} lays out a prompt and one answer: such a model reads no conversation"
            raise Refused(Finding("model.processor", "model.name", what, "choose a model such as LLaVA or Qwen-VL"))

    def _processed(self, image: Any, mark: str) -> tuple[list[int], dict[str, np.ndarray]]:
        """The tokens of a picture, and its tensors. Raises ValueError where its place can't be told."""
        text = f"{BESIDE}{mark}{BESIDE}"
        made = self.processor(text=text, images=[image], return_tensors="np")
        arrays = {name: np.asarray(value) for name, value in made.items() if name not in TEXT_TENSORS}
        plain, ids = self.tokenizer(text)["input_ids"], [int(one) for one in np.asarray(made["input_ids"])[0]]
        at = plain.index(self.tokenizer.convert_tokens_to_ids(mark))
        after = len(plain) - at - 1
        if ids[:at] != plain[:at] or ids[len(ids) - after :] != plain[at + 1 :]:
            raise ValueError("the text around the picture is another one")
        return ids[at : len(ids) - after], arrays

    def prepare(self, pictures: Iterable[Picture]) -> None:
        """One after the other: tokenizers are not to be used in threads."""
        for one in dict.fromkeys(pictures):
            if one not in self._known:
                self._take(one)

    def _take(self, picture: Picture) -> None:
        try:
            image, notes = decode(picture)
            tokens, arrays = self._processed(image, self.mark)
        except BadPicture as bad:
            self._known[picture] = bad
            return
        except ValueError as error:  # what a processor says of one that it can't take, such as a too narrow one
            self._known[picture] = BadPicture(f"is refused by the model's processor ({error})", "leave the row out")
            return
        self.converted.update(notes)
        digest = hashlib.sha256(str(tokens).encode())
        for name in sorted(arrays):
            digest.update(f"{name}{arrays[name].shape}".encode() + np.ascontiguousarray(arrays[name]).tobytes())
        key = digest.hexdigest()[:24]
        if key not in self._arrays:
            self._arrays[key] = {name: self._scratch.write(array) for name, array in arrays.items()}
            self._tokens[key] = tokens
            self.names.update(arrays)
        self._known[picture] = key

    def places(self, key: str) -> list[int]:
        return self._tokens[key]

    def tensors(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """By name, all pictures end to end along the first axis; shorter ones are filled with zeros, which processors
        fill with too."""
        made = {}
        for name in self._arrays[keys[0]]:
            found = [self._scratch.read(self._arrays[key][name]) for key in keys]
            most = np.max([one.shape[1:] for one in found], axis=0) if found[0].ndim > 1 else ()
            filled = [
                np.pad(one, [(0, 0), *((0, int(n) - have) for n, have in zip(most, one.shape[1:], strict=True))])
                for one in found
            ]
            made[name] = torch.from_numpy(np.concatenate(filled))
        return made
