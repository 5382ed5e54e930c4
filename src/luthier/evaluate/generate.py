"""Generation, for evaluation and for use: transformers' own, on prompts encoded as training encoded them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch

from luthier.data.collate import lay_out
from luthier.evaluate.prefill import prefilled
from luthier.models.backbone import Backbone
from luthier.models.draws import begin_at
from luthier.models.modes import evaluating
from luthier.models.vision.describing import DescribingBackbone
from luthier.types import Features, Prompt


def terminators(backbone: Backbone) -> list[int]:
    """Every id that ends an answer: the generation configuration's, and the tokenizer's."""
    configured = backbone.model.generation_config.eos_token_id
    found = set(configured) if isinstance(configured, list) else {configured}
    return sorted(int(i) for i in found | {backbone.tokenizer.eos_token_id} if i is not None)


class _Ended:
    """Ends a row once what was written of it says so; ``first`` is where the answer begins."""

    def __init__(self, ended: Callable[[list[int]], bool], first: int):
        self.ended, self.first = ended, first

    def __call__(self, ids_KL: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
        return torch.tensor([self.ended(row) for row in ids_KL[:, self.first :].tolist()], device=ids_KL.device)


class _OfTheAnswer:
    """Forbids what would write n tokens in a row twice. transformers' own rule counts a decoder's prompt too, so that
    a summary could not take three words from its document."""

    def __init__(self, size: int, first: int):
        from transformers import NoRepeatNGramLogitsProcessor

        self.rule, self.first = NoRepeatNGramLogitsProcessor(size), first

    def __call__(self, ids_KL: torch.Tensor, scores_KV: torch.Tensor) -> torch.Tensor:
        return self.rule(ids_KL[:, self.first :], scores_KV)  # type: ignore[arg-type]


def generate(
    backbone: Backbone, prompts: Sequence[Prompt], *, max_new_tokens: int, min_new_tokens: int = 0,
    temperature: float = 0.0, seed: int = 0, num_beams: int = 1, length_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0, stop: Sequence[int] = (), batch_size: int = 8, whole: bool = False,
    ended: Callable[[list[int]], bool] | None = None,
) -> list[list[int]]:  # fmt: skip
    """The ids that follow each prompt (ids, or a row of them with what stands beside it, such as pictures), or that an
    encoder-decoder writes from it, without the terminator.

    Greedy, or by beam search, at temperature 0; sampled above it. ``ended`` may end an answer early, by its ids.
    ``whole``: as they were drawn, with the terminator (an answer without one never ended), and from
    softmax(logits / temperature) itself: no top-k, top-p or penalty of the model's generation configuration.
    """
    ends = sorted({*terminators(backbone), *stop})
    pad = backbone.tokenizer.pad_token_id if backbone.tokenizer.pad_token_id is not None else ends[0]
    answers: dict[int, list[int]] = {}
    sampling: dict[str, Any] = {"do_sample": False, "num_beams": num_beams}
    if num_beams > 1:
        sampling["length_penalty"] = length_penalty
    if temperature > 0:
        sampling = {"do_sample": True, "num_beams": 1, "temperature": temperature}
    if whole:
        sampling |= {"repetition_penalty": 1.0} | ({"top_k": 0, "top_p": 1.0} if temperature > 0 else {})
    with evaluating(backbone.model), backbone.attention("sdpa"), torch.no_grad(), torch.random.fork_rng():
        begin_at(seed, backbone.device)
        for places in _together(backbone, prompts, batch_size):
            some = [prompts[place] for place in places]
            rows: list[Features] = [one if isinstance(one, dict) else {"input_ids": one} for one in some]
            backbone.check_search(rows, num_beams)
            # A decoder goes on at the end of its row; an encoder counts its positions from the start.
            tensors = lay_out(rows, "padded", pad, side="right" if backbone.encoder_decoder else "left")
            ids_KL, mask_KL = (tensors[key].to(backbone.device) for key in ("input_ids", "attention_mask"))
            inputs = backbone.generation_inputs(ids_KL, mask_KL)
            inputs |= {name: tensor.to(backbone.device) for name, tensor in backbone.row_media(rows).items()}
            new = _room(backbone, ids_KL.shape[1], max_new_tokens)
            # An encoder-decoder gives what it wrote, after its start token; a decoder its prompt too, unless that was
            # given as embeddings.
            if num_beams == 1:
                inputs = prefilled(backbone, rows, inputs, pad)
            given = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
            begun = inputs["decoder_input_ids"].shape[1] if "decoder_input_ids" in inputs else 1
            first = begun if backbone.encoder_decoder else given
            rules = [_OfTheAnswer(no_repeat_ngram_size, first)] if no_repeat_ngram_size else []
            least = {"min_new_tokens": min(min_new_tokens, new)} if min_new_tokens else {}
            done = [_Ended(ended, first)] if ended else []
            grown = cast(Any, backbone.model).generate(
                **inputs, max_new_tokens=new, eos_token_id=ends, pad_token_id=pad, logits_processor=rules,
                stopping_criteria=done,
                **least, **sampling,
            )  # fmt: skip
            for place, row in zip(places, grown[:, first:].tolist(), strict=True):
                cut = next((at for at, token in enumerate(row) if token in ends), len(row))
                answers[place] = row[: cut + 1] if whole else row[:cut]
    return [answers[place] for place in range(len(prompts))]


def _together(backbone: Backbone, prompts: Sequence[Prompt], size: int) -> Iterator[list[int]]:
    """The places of those that are answered together: neighbours, and of one length where pads would be read."""
    groups: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompts):
        ids = prompt["input_ids"] if isinstance(prompt, dict) else prompt
        groups.setdefault(len(ids) if isinstance(backbone, DescribingBackbone) else 0, []).append(place)
    for some in groups.values():
        yield from (some[first : first + size] for first in range(0, len(some), size))


def _room(backbone: Backbone, prompt: int, wanted: int) -> int:
    """No more new tokens than a table of positions has rows for, beside the prompt and what virtual tokens take."""
    positions = backbone.max_positions if backbone.has_position_table else None
    used = 0 if backbone.encoder_decoder else prompt
    return wanted if positions is None else max(1, min(wanted, positions - used))
