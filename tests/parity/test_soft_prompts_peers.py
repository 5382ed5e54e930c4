"""Soft prompts and prefixes against PEFT, and against transformers where PEFT would differ or refuses.

Axes: T tokens of a row, L tokens with virtual ones, D hidden width, G key/value heads, P prefix, E width of a head.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from soft import LENGTH, adapted, assert_close, outputs, rows_for
from torch import Tensor

import tiny
from luthier.methods import prefix, prompt
from luthier.models.backbone import Backbone

Opened = Callable[..., Backbone]
EQUAL = ("gpt2", "llama", "qwen3")  # no window: what PEFT's cache holds stays
PREFIXES = ("prefix", "prefix, no projection")
PROMPTS = ("prompt", "prompt, mlp", "prompt, lstm")


@torch.no_grad()
def peft_outputs(model: Any, rows: list[dict[str, Any]]) -> list[Tensor]:
    """Of each row alone; a language model's without those of the virtual tokens."""
    found = []
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
        found.append(logits if logits.dim() == 1 else logits[-ids.shape[1] :])
    return found


def base(backbone: Backbone) -> Any:
    if backbone.needs == "token_logits":
        return transformers.AutoModelForCausalLM.from_pretrained(backbone.path).eval()
    auto = transformers.AutoModelForSequenceClassification
    return auto.from_pretrained(backbone.path, num_labels=3, pad_token_id=2).eval()


@pytest.mark.parametrize("case", [*PROMPTS, *PREFIXES])
@pytest.mark.parametrize("name", EQUAL)
def test_peft_opens_what_a_decoder_learned_and_gives_the_same(
    name: str, case: str, opened: Opened, tmp_path: Path
) -> None:
    backbone = opened(name, "token_logits")
    adapted(backbone, case).save(tmp_path)
    expected = {"prompt": "PROMPT_TUNING"}.get(case, "PREFIX_TUNING" if case in PREFIXES else "P_TUNING")
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == expected
    theirs = PeftModel.from_pretrained(base(backbone), str(tmp_path)).eval()
    with torch.no_grad():
        assert_close(outputs(backbone, rows_for(backbone)), peft_outputs(theirs, rows_for(backbone)))


@pytest.mark.parametrize("case", PROMPTS)
@pytest.mark.parametrize("name", [*EQUAL, "gemma3", "mistral"])
def test_peft_opens_a_prompted_classifier_that_reads_the_last_token(
    name: str, case: str, opened: Opened, tmp_path: Path
) -> None:
    backbone = opened(name, "sequence_logits")
    adapted(backbone, case).save(tmp_path)
    theirs = PeftModel.from_pretrained(base(backbone), str(tmp_path)).eval()
    with torch.no_grad():
        assert_close(outputs(backbone, rows_for(backbone)), peft_outputs(theirs, rows_for(backbone)))


@pytest.mark.parametrize("name", EQUAL)
def test_peft_writes_the_same_tokens_after_a_prefix(name: str, opened: Opened, tmp_path: Path) -> None:
    """Greedy, from one prompt at a time: positions go on where PEFT's go on."""
    from luthier.evaluate.generate import generate

    backbone = opened(name, "token_logits")
    adapted(backbone, "prefix").save(tmp_path)
    theirs = PeftModel.from_pretrained(base(backbone), str(tmp_path)).eval()
    prompts = [row["input_ids"] for row in rows_for(backbone)]
    for ids, found in zip(prompts, generate(backbone, prompts, max_new_tokens=6), strict=True):
        given = torch.tensor([ids])
        # Without a cache, token by token: PEFT's own generation with one differs between versions of transformers.
        for _ in range(len(found)):
            with torch.no_grad():
                logits_TV = theirs(input_ids=given, attention_mask=torch.ones_like(given)).logits[0]
            given = torch.cat([given, logits_TV[-1].argmax()[None, None]], dim=1)
        assert given[0, len(ids) :].tolist() == found


CONFIGS: dict[str, tuple[Any, dict[str, Any], Any, dict[str, Any]]] = {
    "prompt": (PromptTuningConfig, {}, prompt, {"init": "random"}),
    "mlp": (PromptEncoderConfig, {"encoder_hidden_size": 12}, prompt, {"encoder": "mlp", "hidden": 12}),
    "lstm": (
        PromptEncoderConfig, {"encoder_hidden_size": 12, "encoder_reparameterization_type": "LSTM"},
        prompt, {"encoder": "lstm", "hidden": 12},
    ),
    "prefix": (PrefixTuningConfig, {"prefix_projection": True, "encoder_hidden_size": 12}, prefix, {"hidden": 12}),
    "flat": (PrefixTuningConfig, {}, prefix, {"projection": False}),
}  # fmt: skip
SAME_PART = {"mlp_head": "mlp", "lstm_head": "lstm", "transform": "transform", "embedding": "embedding"}


@pytest.mark.parametrize("case", CONFIGS)
@pytest.mark.parametrize("name", EQUAL)
def test_the_same_raw_weights_give_the_same_logits_and_gradients(name: str, case: str, opened: Opened) -> None:
    """PEFT's own module while it trains, its numbers copied into ours: also what encoders and MLPs make of them."""
    config, theirs_options, module, options = CONFIGS[case]
    backbone = opened(name, "token_logits")
    torch.manual_seed(0)
    theirs = get_peft_model(
        base(backbone), config(task_type="CAUSAL_LM", num_virtual_tokens=LENGTH, **theirs_options)
    ).eval()
    adaptation = module.adapt(backbone, module.Options(num_virtual_tokens=LENGTH, **options))
    encoder = theirs.prompt_encoder["default"]
    pairs = {}
    for their_name, their_parameter in encoder.named_parameters():
        part, _, rest = their_name.partition(".")
        ours = [
            p for n, p in adaptation.parameters.items()
            if n.endswith(SAME_PART[part] if part == "embedding" else f"{SAME_PART[part]}.{rest}")
        ]  # fmt: skip
        assert len(ours) == 1
        pairs[their_name] = ours[0]
        if ours[0].shape != their_parameter.shape:  # what goes into an MLP may be of another width
            pytest.skip("grouped heads: PEFT's prefix embeddings have the width of the key/value heads")
        ours[0].data = their_parameter.detach().clone()
    rows = rows_for(backbone)
    found = outputs(backbone, rows)
    logits = [
        theirs(input_ids=torch.tensor([row["input_ids"]]), attention_mask=torch.ones(1, len(row["input_ids"]))).logits[
            0
        ]
        for row in rows
    ]
    expected = [one[-len(row["input_ids"]) :] for one, row in zip(logits, rows, strict=True)]
    assert_close(found, expected)
    sum(one.log_softmax(-1)[:, 0].sum() for one in found).backward()  # type: ignore[union-attr]
    sum(one.log_softmax(-1)[:, 0].sum() for one in expected).backward()  # type: ignore[union-attr]
    for their_name, parameter in encoder.named_parameters():
        scale = float(parameter.grad.abs().max())
        torch.testing.assert_close(pairs[their_name].grad / scale, parameter.grad / scale, rtol=1e-4, atol=1e-4)


REFUSED = [
    ("bert", "sequence_logits", "prompt"), ("bert", "sequence_logits", "prefix"), ("gpt2", "sequence_logits", "prefix"),
    ("gemma3", "token_logits", "prefix"), ("mistral", "token_logits", "prefix"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "needs", "case"), REFUSED)
def test_what_peft_would_read_otherwise_it_refuses(
    name: str, needs: str, case: str, opened: Opened, tmp_path: Path
) -> None:
    """As its own type the same file would open, to other logits or none: that is why it is not written as that."""
    backbone = opened(name, needs)
    adapted(backbone, case).save(tmp_path)
    with pytest.raises((KeyError, ValueError)):
        PeftModel.from_pretrained(base(backbone), str(tmp_path))


def test_an_encoder_s_head_reads_its_own_first_token(opened: Opened, tmp_path: Path) -> None:
    """BERT by transformers alone: the embeddings lengthened by hand, the head on position P. PEFT reads position 0."""
    backbone = opened("bert", "sequence_logits")
    adapted(backbone, "prompt").save(tmp_path)
    prompt_PD = load_file(tmp_path / "adapter_model.safetensors")["prompt_embeddings"]
    model, rows, expected = backbone.model, rows_for(backbone), []
    with backbone.attention("sdpa"), torch.no_grad():
        for row in rows:
            words_TD = model.bert.embeddings.word_embeddings(torch.tensor(row["input_ids"]))
            hidden_1LD = model.bert(inputs_embeds=torch.cat([prompt_PD, words_TD])[None]).last_hidden_state
            expected.append(model.classifier(model.bert.pooler(hidden_1LD[:, LENGTH:]))[0])
        read_first = model(inputs_embeds=torch.cat([prompt_PD, words_TD])[None]).logits[0]
    with torch.no_grad():
        found = outputs(backbone, rows)
    assert_close(found, expected)
    assert (read_first - found[-1]).abs().max() > 0.01


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_an_encoder_s_tokens_keep_their_positions_after_a_prefix(name: str, opened: Opened, tmp_path: Path) -> None:
    """Transformers' own cache filled with the prefix by hand, and the positions given as they are without one."""
    backbone = opened(name, "hidden")
    adapted(backbone, "prefix").save(tmp_path)
    flat_PF = load_file(tmp_path / "adapter_model.safetensors")["prompt_embeddings"]
    parts = flat_PF.view(1, LENGTH, 2 * tiny.LAYERS, 2, tiny.WIDTH // 2).permute(2, 0, 3, 1, 4)
    first = backbone.position_offset
    plain = transformers.AutoModel.from_pretrained(backbone.path).eval()
    for row in rows_for(backbone):
        cache = transformers.DynamicCache([(parts[2 * at], parts[2 * at + 1]) for at in range(tiny.LAYERS)])
        ids = torch.tensor([row["input_ids"]])
        positions = torch.arange(first, first + ids.shape[1])[None]
        with torch.no_grad():
            expected_TD = plain(input_ids=ids, position_ids=positions, cache=cache).last_hidden_state[0]
            found_TD = _hidden(backbone, row)
        torch.testing.assert_close(found_TD, expected_TD, rtol=1e-5, atol=1e-5)


def _hidden(backbone: Backbone, row: dict[str, Any]) -> Tensor:
    from luthier.data.collate import lay_out
    from luthier.types import Batch

    return backbone.hidden(Batch(lay_out([row], backbone.layout, 2), []))[: len(row["input_ids"])]


def test_a_short_row_in_a_window_is_peft_s(opened: Opened, tmp_path: Path) -> None:
    """Where prefix and row fit into the window of 8, PEFT's cache forgets nothing: then it gives ours, once asked to.

    Longer, it forgets prefix positions and ours does not: the reason for a type of our own.
    """
    backbone = opened("mistral", "token_logits")
    adapted(backbone, "prefix, no projection").save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    shape = {"num_layers": tiny.LAYERS, "token_dim": 16, "num_attention_heads": 1, "num_transformer_submodules": 1}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | shape | {"peft_type": "PREFIX_TUNING"}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = PeftModel.from_pretrained(base(backbone), str(tmp_path)).eval()
    short, long = [{"input_ids": [20, 30, 40]}], [{"input_ids": list(range(20, 37))}]
    with torch.no_grad():
        assert_close(outputs(backbone, short), peft_outputs(theirs, short))
        assert (outputs(backbone, long)[0] - peft_outputs(theirs, long)[0]).abs().max() > 0.01
