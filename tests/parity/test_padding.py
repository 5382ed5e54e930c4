"""Left, right or no padding: the same hidden states, scores and answers. Masks come from lengths, never from ids."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import reference
import torch

import tiny
from luthier.data.collate import lay_out
from luthier.evaluate.generate import generate
from luthier.models.backbone import Backbone
from luthier.types import Batch, Features

Opened = Callable[..., Backbone]
LAYOUTS = [("packed", "right"), ("padded", "right"), ("padded", "left")]
EOS = 1


@pytest.mark.parametrize("name", tiny.DECODERS)
@torch.no_grad()
def test_hidden_states_do_not_depend_on_the_side_of_padding(name: str, opened: Opened) -> None:
    backbone = opened(name, "token_logits", packing="off")
    rows = reference.random_rows(len(backbone.embedding.weight))
    for side in ("right", "left"):
        tensors = lay_out(rows, "padded", 2, side)
        hidden_TD = backbone.hidden(Batch(tensors, []))
        places = zip(tensors["starts"].tolist(), tensors["lengths"].tolist(), strict=True)
        for (start, length), row in zip(places, rows, strict=True):
            found = backbone.token_logits(hidden_TD[start : start + length])
            expected = reference.alone(backbone, row["input_ids"])
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, msg=f"{side}: {row['row']}")


@pytest.mark.parametrize("pad", ["<pad>", None], ids=["pad", "pad is eos"])
@pytest.mark.parametrize("name", tiny.DECODERS)
@torch.no_grad()
def test_a_decoder_scores_at_the_last_real_token(name: str, pad: str | None, opened: Opened) -> None:
    """With the end-of-text token inside the text and at its end, also where it is what pads.

    Expected: the score layer at the last position of a row that is alone.
    """
    backbone = opened(name, "sequence_logits", pad=pad, pad_token_id=2 if pad else None)
    assert (backbone.tokenizer.pad_token_id == EOS) == (pad is None)
    texts = [[20, 30, EOS, 40, 50], [60, EOS], [70, 80, 90, 21, 31, 41, 51, 61, EOS, EOS], [22, EOS, EOS, 32]]
    rows: list[Features] = [{"input_ids": ids} for ids in texts]
    expected = torch.stack([_score_of_last(backbone, ids) for ids in texts])
    assert backbone.reads == "last"
    for layout, side in LAYOUTS:
        with backbone.attention("luthier_packed" if layout == "packed" else "sdpa"):
            batch = Batch(lay_out(rows, layout, backbone.tokenizer.pad_token_id, side), [])
            found = backbone.sequence_logits(backbone.hidden(batch), batch)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, msg=f"{layout} {side}")


def _score_of_last(backbone: Backbone, ids: list[int]) -> torch.Tensor:
    with backbone.attention("sdpa"):
        return backbone.model.score(backbone.trunk(torch.tensor([ids])).last_hidden_state[0, -1])


@pytest.mark.parametrize("name", tiny.DECODERS)
def test_prompts_answered_together_are_answered_as_each_alone(name: str, opened: Opened) -> None:
    """Greedy, eight tokens: with transformers' own `generate` on one prompt at a time, without padding."""
    backbone = opened(name, "token_logits")
    prompts = [row["input_ids"] for row in reference.random_rows(len(backbone.embedding.weight))]
    together = generate(backbone, prompts, max_new_tokens=8)
    for ids, found in zip(prompts, together, strict=True):
        with backbone.attention("sdpa"):
            grown = backbone.model.generate(
                torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=8,
                do_sample=False, pad_token_id=2, eos_token_id=EOS,
            )  # fmt: skip
        expected = grown[0, len(ids) :].tolist()
        assert found == (expected[: expected.index(EOS)] if EOS in expected else expected)
