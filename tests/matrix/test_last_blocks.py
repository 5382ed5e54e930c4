"""`freeze.last: 1` trains the last block and what runs after it: nothing that the frozen blocks use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import toys

import luthier

# Read off transformers' modules; the second of the two blocks, then what its output passes through.
LIKE_LLAMA = {"model.layers.1.", "model.norm.", "score."}
AFTER = {
    "bert": {"bert.encoder.layer.1.", "bert.pooler.", "classifier."},
    "roberta": {"roberta.encoder.layer.1.", "classifier."},
    "modernbert": {"model.layers.1.", "model.final_norm.", "head.", "classifier."},
    "deberta-v2": {"deberta.encoder.layer.1.", "pooler.", "classifier."},
    "distilbert": {"distilbert.transformer.layer.1.", "pre_classifier.", "classifier."},
    "gpt2": {"transformer.h.1.", "transformer.ln_f.", "score."},
    # A decoder's blocks come after its encoder's.
    "t5": {"transformer.decoder.block.1.", "transformer.decoder.final_layer_norm.", "classification_head."},
    "bart": {"model.decoder.layers.1.", "classification_head."},
    **dict.fromkeys(("llama", "qwen3", "gemma2", "gemma3", "mistral"), LIKE_LLAMA),
}
# As DeBERTa-v3 has it: a table of relative positions and its norm, written below the blocks and used by all of them.
CHANGES = {"deberta-v2": {"norm_rel_ebd": "layer_norm"}}


@pytest.mark.parametrize("name", AFTER)
def test_the_last_block_and_what_follows(name: str, tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    model = tiny_folder(name, **CHANGES.get(name, {}))
    data = toys.write("single", tmp_path)
    findings, prepared = luthier.check(task="classify", model=model, data=data, method="freeze", freeze={"last": 1})
    assert findings == []
    trained = set(prepared.adaptation.parameters)
    everything = dict(prepared.backbone.model.named_parameters())
    expected = {parameter for parameter in everything if parameter.startswith(tuple(AFTER[name]))}
    assert trained == expected
    assert all(any(parameter.startswith(prefix) for parameter in trained) for prefix in AFTER[name])
