"""What was recorded of AdapterHub, on plain models of this environment: the bases, and the formulas of its adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapterhub import formulas
from adapterhub.reference import CASES, HERE, load, pairs

LARGEST = 600_000  # bytes of all recorded files
BOUND = 1e-5


@pytest.mark.parametrize("name", CASES)
def test_the_base_model_is_the_recorded_one(name: str) -> None:
    case = load(name)
    with torch.no_grad():
        found = case.model()(**case.inputs)
    assert case.worst(found, case.base) < BOUND


@pytest.mark.parametrize(("name", "setting"), pairs())
def test_the_formulas_give_what_adapterhub_gave(name: str, setting: str) -> None:
    """The formulas of adapterhub/README.md by hooks at ends of sublayers, and no adapter changes next to nothing."""
    case = load(name)
    model, expected = case.model(), case.settings[setting]
    with torch.no_grad(), formulas.in_force(case, expected, model) as weights:
        found = model(**case.inputs)
    assert case.worst(found, expected) < BOUND
    assert case.worst(found, case.base) > 0.1
    assert weights.keys() == expected.fusion_weights.keys()
    for where, weights_BTN in expected.fusion_weights.items():
        is_decoder = where[0].startswith("decoder")
        mask = case.inputs["decoder_attention_mask" if is_decoder else "attention_mask"].bool()
        assert (weights[where] - weights_BTN)[mask].abs().max() < BOUND


@pytest.mark.parametrize("name", CASES)
def test_where_adapters_sit(name: str) -> None:
    """Pfeiffer and parallel: feed-forward; Houlsby: self-attention too; cross-attention only where asked for."""
    case = load(name)
    for adapter in case.adapters.values():
        places = {place for _, place, _ in adapter.tensors}
        crossed = {"cross_attention"} if adapter.options["cross_adapter"] else set()
        assert places == {"feed_forward"} | ({"attention"} if adapter.kind == "houlsby" else set()) | crossed
        blocks = {block for block, _, _ in adapter.tensors}
        assert len(blocks) == (4 if case.base.encoder_last_hidden_state is not None else 2)
        assert blocks <= {block for block, _ in case.model().named_modules()}


def test_each_recorded_file_is_read_and_all_are_small() -> None:
    files = sorted(HERE.glob("*.npz"))
    assert {Path(file).stem for file in files} == set(CASES)
    assert sum(file.stat().st_size for file in files) < LARGEST
