"""What benchmark suites ask of a model, against its own logits: log p(y | x) = Σ_t log softmax(z_t)[y_t], a row alone.

The expected sums come from `model(input_ids).logits` of transformers, without packing, chunks or windows of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors

import luthier
import tiny
from luthier.evaluate.continuations import Continuations, windows
from luthier.evaluate.outputs import Reader
from luthier.models.backbone import Backbone
from luthier.models.load import load
from luthier.types import Refused

PAIRS = [("the red cat", " and the dog"), ("the", " old house"), ("small bird ", "tree"), ("", "green river")]


def opened(name: str, path: str) -> tuple[Backbone, Continuations]:
    backbone = load(name, path, "token_logits")
    backbone.choose_layout("auto")
    backbone.model.eval()
    return backbone, Continuations(backbone, Reader(backbone, micro_tokens=64))


def summed(logits_LV: torch.Tensor, ids: list[int], asked: int) -> tuple[float, bool]:
    """Of the last ``asked`` ids, each predicted by the logits one place before it."""
    at = range(len(ids) - asked, len(ids))
    logs = torch.log_softmax(logits_LV.double(), -1)
    return sum(float(logs[t - 1, ids[t]]) for t in at), all(int(logits_LV[t - 1].argmax()) == ids[t] for t in at)


@torch.no_grad()
def by_hand(backbone: Backbone, ids: list[int], asked: int) -> tuple[float, bool]:
    with backbone.attention("eager"):
        return summed(backbone.model(input_ids=torch.tensor([ids])).logits[0], ids, asked)


def ids_of(backbone: Backbone, text: str) -> list[int]:
    return list(backbone.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_windows_ask_for_each_token_once_with_all_the_context_that_fits() -> None:
    """Worked out on paper: ids 0 to 9, rows of at most 5; the last row keeps four ids before the one it asks for."""
    assert list(windows([*range(10)], 5)) == [([0], [1, 2, 3, 4]), ([4], [5, 6, 7, 8]), ([5, 6, 7, 8], [9])]
    assert list(windows([0, 1, 2], 5)) == [([0], [1, 2])]
    assert list(windows([0], 5)) == []


@pytest.mark.parametrize("model", ["llama", "gpt2", "gemma2", "qwen3"])
def test_likelihoods_are_sums_of_the_models_own_logits(model: str, tiny_folder: Callable[..., str]) -> None:
    """Tokens of the toy tokenizer begin with their space, and it puts nothing before a text: the split of a pair is the
    one of its words. Without a context the text stands after ``<s>``."""
    backbone, texts = opened(model, tiny_folder(model))
    found = texts.likelihoods(PAIRS)
    for (context, continuation), (nats, greedy) in zip(PAIRS, found, strict=True):
        after = ids_of(backbone, context.rstrip()) or [0]
        ids = [*after, *ids_of(backbone, context[len(context.rstrip()) :] + continuation)]
        expected, best = by_hand(backbone, ids, len(ids) - len(after))
        assert nats == pytest.approx(expected, rel=1e-5)
        assert greedy == best


def test_what_the_model_would_write_is_greedy_and_nothing_else_is(tiny_folder: Callable[..., str]) -> None:
    backbone, texts = opened("llama", tiny_folder("llama"))
    ids = ids_of(backbone, "the red cat")
    for _ in range(3):
        with torch.no_grad(), backbone.attention("eager"):
            ids.append(int(backbone.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    row, other = (ids[:3], ids[3:]), (ids[:3], [*ids[3:5], (ids[5] + 1) % 64])
    assert [greedy for _, greedy in texts._scored([row, other])] == [True, False]


def test_a_long_text_is_asked_for_in_windows(tiny_folder: Callable[..., str]) -> None:
    """150 words under 128 positions: ``<s>`` and words 1 to 127, then the last 23 after the 105 before them."""
    backbone, texts = opened("llama", tiny_folder("llama"))
    text = " ".join(tiny.WORDS[at % 13] for at in range(150))
    ids = [0, *ids_of(backbone, text)]
    assert (len(ids), texts.longest) == (151, 128)
    expected = by_hand(backbone, ids[:128], 127)[0] + by_hand(backbone, ids[23:], 23)[0]
    assert texts.whole([text, "the"]) == pytest.approx(
        [expected, by_hand(backbone, [0, *ids_of(backbone, "the")], 1)[0]]
    )
    assert texts.truncated == 0


def test_a_text_stands_after_one_begin_of_text_token(tiny_folder: Callable[..., str]) -> None:
    """Of a tokenizer that puts one itself, too: it is neither doubled nor scored."""
    backbone, texts = opened("llama", tiny_folder("llama"))
    processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    backbone.tokenizer.backend_tokenizer.post_processor = processor  # type: ignore[attr-defined]
    words = ids_of(backbone, "the red cat")
    assert backbone.tokenizer("the red cat")["input_ids"] == [0, *words]
    assert texts.whole(["the red cat"]) == pytest.approx([by_hand(backbone, [0, *words], 3)[0]], rel=1e-5)
    [(nats, _)] = texts.likelihoods([("the red", " cat")])
    assert nats == pytest.approx(by_hand(backbone, [0, *words], 1)[0], rel=1e-5)


def test_a_context_that_is_too_long_loses_its_beginning_and_is_counted(tiny_folder: Callable[..., str]) -> None:
    backbone, texts = opened("llama", tiny_folder("llama"))
    context = " ".join(tiny.WORDS[at % 11] for at in range(140))
    ids = ids_of(backbone, context + " red cat")
    [(nats, _)] = texts.likelihoods([(context, " red cat")])
    assert nats == pytest.approx(by_hand(backbone, ids[-128:], 2)[0], rel=1e-5)
    assert texts.truncated == 1
    with pytest.raises(Refused, match=r"evaluate\.too-long"):
        texts.likelihoods([("red", " cat" * 130)])


def test_writing_stops_where_a_stop_begins(tiny_folder: Callable[..., str]) -> None:
    backbone, texts = opened("llama", tiny_folder("llama"))
    prompts = ["the red cat", "small"]
    free = texts.write(prompts, max_new_tokens=24)
    with torch.no_grad(), backbone.attention("sdpa"):
        ids = torch.tensor([ids_of(backbone, prompts[0])])
        grown = backbone.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
    assert free[0] == backbone.tokenizer.decode(grown[0, ids.shape[1] :], skip_special_tokens=True)
    stop = free[0][len(free[0]) // 2 :][:3]
    assert texts.write(prompts, until=[stop], max_new_tokens=24) == [text.split(stop)[0] for text in free]


def test_an_encoder_decoder_is_asked_for_its_target(tiny_folder: Callable[..., str]) -> None:
    """transformers' own loss is the mean over the labels of -log p."""
    backbone, texts = opened("t5", tiny_folder("t5"))
    [(nats, _)] = texts.likelihoods([("the red cat", " and the dog")])
    source = torch.tensor([backbone.tokenizer("the red cat")["input_ids"]])
    target = torch.tensor([ids_of(backbone, " and the dog")])
    with torch.no_grad():
        loss = backbone.model(input_ids=source, labels=target).loss
    assert nats == pytest.approx(-float(loss) * target.shape[1], rel=1e-5)
    with pytest.raises(Refused, match=r"evaluate\.no-source"):
        texts.whole(["the red cat"])


def test_virtual_tokens_of_a_run_are_in_force(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    """Logits of the model alone would leave them out; here they are put before the row's embeddings by hand."""
    tiny.write_jsonl(tmp_path / "rows.jsonl", [{"text": f"{word} house and tree"} for word in tiny.WORDS])
    settings: dict[str, Any] = {"data": {"train": str(tmp_path / "rows.jsonl"), "eval": 0}, "method": "prompt"}
    run = luthier.tune(
        task="complete", model=tiny_folder("llama"), steps=3, learning_rate=0.5, out=str(tmp_path), **settings
    )
    backbone = run.predictor.backbone
    [(nats, _)] = Continuations(backbone, run.predictor.reader).likelihoods([("red", " house")])
    ids = ids_of(backbone, "red house")
    with torch.no_grad(), backbone.attention("eager"):
        prompt_PD = backbone.soft_prompt()  # type: ignore[misc]
        given = torch.cat([prompt_PD, backbone.embedding(torch.tensor(ids))])[None]
        logits = backbone.model(inputs_embeds=given).logits[0, len(prompt_PD) :]
    assert nats == pytest.approx(summed(logits, ids, 1)[0], rel=1e-5)
    assert nats != pytest.approx(by_hand(backbone, ids, 1)[0], rel=1e-3)
