"""While preferences are learned: one gradient for any split, a reference that never moves, nothing at step 0."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Trial, assert_same_gradient, preference_rows, ready, thumb_rows

import luthier
import tiny
from luthier.engine.checkpoint import latest
from luthier.engine.parallel import Processes
from luthier.objectives.preference import REFERENCE
from luthier.runs.beside.reference import give_references

STEPS = 6
OBJECTIVES = ("dpo", "ipo", "simpo", "orpo", "cpo", "kto")
DROPPED = {"gpt2": {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3}, "llama": {"attention_dropout": 0.3}}
COMPARED = [
    ("dpo", "llama", {"method": "lora", "lora": {"rank": 2, "dropout": 0.3}}),
    ("dpo", "gpt2", {"method": "full"}),
    ("dpo", "llama", {"method": ["lora", {"freeze": {"train": ["embedding"]}}]}),
    ("dpo", "llama", {"method": "adapter"}),
    ("ipo", "gpt2", {"method": "lora", "lora": {"dropout": 0.3}}),
    ("kto", "gpt2", {"method": "lora", "lora": {"dropout": 0.3}}),
]  # fmt: skip
AT_START = {"dpo": math.log(2), "ipo": 25.0, "kto": 0.5}


def trial(objective: str, model: str, folder: Path, *, thumbs: bool = False, **keys: Any) -> Trial:
    rows = (thumb_rows if thumbs else preference_rows)(16, weighted=True)
    task = "reward" if objective == "bradley_terry" else "prefer"
    keys = {"method": "lora", "lora": {"rank": 2}, **keys} if "method" not in keys else keys
    prepared = ready(model, task, rows, folder, objective=objective, steps=STEPS, out=str(folder), **keys)
    give_references(prepared, Processes())
    return Trial(prepared, folder)


@pytest.mark.parametrize(("objective", "name", "keys"), COMPARED)
def test_before_the_first_step_nothing_is_preferred(
    objective: str, name: str, keys: dict[str, Any], tiny_folder: Any, tmp_path: Path
) -> None:
    """With dropout in the config and in the adapter: each log-ratio is 0, so L = ln 2 (IPO (1 / 2β)² = 25, KTO 1/2)."""
    made = trial(objective, tiny_folder(name, **DROPPED[name]), tmp_path, **keys)
    first = made.fit(batch_size=16, micro_tokens=64).records[0]
    assert first["loss"] == pytest.approx(AT_START[objective], abs=1e-6)
    for watched in ("chosen_reward", "rejected_reward", "kl"):
        assert first[watched] == pytest.approx(0, abs=1e-7)


def test_checkpointed_blocks_drop_nothing_either(tiny_folder: Any, tmp_path: Path) -> None:
    """Gradient checkpointing works in training mode alone; the loss is ln 2 and the gradient the same."""
    model = tiny_folder("gpt2", **DROPPED["gpt2"])
    gradients, passes = [], []
    for on in (False, True):
        made = trial("dpo", model, tmp_path, method="full", gradient_checkpointing=on)
        counted: list[int] = []
        block = made.prepared.backbone.model.transformer.h[0].ln_1
        block.register_forward_hook(lambda *given, counted=counted: counted.append(1))
        fitted = made.fit(batch_size=16, micro_tokens=10**6)
        assert fitted.records[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
        gradients.append(fitted.gradient)
        passes.append(len(counted))
    assert passes == [1, 2]  # the second is for the gradient
    assert_same_gradient(*gradients)


@pytest.mark.parametrize("reference", ["before", "switched"])
@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("llama", {"method": "lora"}), ("llama", {"method": ["lora", {"freeze": {"train": ["embedding"]}}]}),
        ("llama", {"method": "full"}), ("llama", {"method": "adapter"}),
    ],
    ids=["lora", "lora and embeddings", "full", "adapter"],
)  # fmt: skip
def test_the_reference_does_not_move(
    reference: str, name: str, keys: dict[str, Any], tiny_folder: Any, tmp_path: Path
) -> None:
    """After 20 steps at a high rate its log-probabilities are the same bits; where the method can't be switched off and
    is to be, the run is refused."""
    keys = {**keys, "dpo": {"reference": reference}}
    if reference == "switched" and ("freeze" in str(keys) or keys["method"] == "full"):
        data = tiny.write_jsonl(tmp_path / "rows.jsonl", preference_rows(16))
        findings, _ = luthier.check(task="prefer", model=tiny_folder(name), data=data, **keys)
        errors = [(finding.code, finding.where) for finding in findings if finding.severity == "error"]
        assert errors == [("prefer.reference", "dpo.reference")]
        return
    made = trial("dpo", tiny_folder(name), tmp_path, **keys)
    prepared = made.prepared
    rows = prepared.train.rows[:4]
    batch = prepared.objective.collate(rows)
    before = prepared.objective._reference(batch).clone()
    fitted = made.fit(steps=20, learning_rate=1e-2)
    assert fitted.losses[-1] < 0.5
    after = prepared.objective._reference(prepared.objective.collate(rows))
    assert torch.equal(before, after)
    assert (REFERENCE in rows[0]) == (reference == "before")


def test_both_ways_to_the_reference_are_one(tiny_folder: Any, tmp_path: Path) -> None:
    """Computed once or with the adapter off each time: the same weights after some steps, to rounding."""
    before, switched = (
        trial("dpo", tiny_folder("llama"), tmp_path, dpo={"reference": way}).fit(steps=STEPS, learning_rate=1e-3)
        for way in ("before", "switched")
    )
    assert before.losses == pytest.approx(switched.losses, abs=1e-5)
    for name, weight in before.weights.items():
        torch.testing.assert_close(weight, switched.weights[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("packing", ["auto", "off"])
@pytest.mark.parametrize("objective", [*OBJECTIVES, "kto on thumbs", "bradley_terry"])
def test_one_gradient_for_any_split(objective: str, packing: str, tiny_folder: Any, tmp_path: Path) -> None:
    """Sixteen weighted rows in one micro-batch, or in many, away from the reference, so that KTO's z is not 0."""
    name, _, thumbs = objective.partition(" on ")
    made = trial(name, tiny_folder("llama"), tmp_path, packing=packing, thumbs=bool(thumbs))
    some = 3 if name == "kto" else 1
    with torch.no_grad():
        for parameter in made.start.values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(some))
    one, many = (made.fit(batch_size=32, micro_tokens=tokens) for tokens in (10**6, 24))
    assert_same_gradient(many.gradient, one.gradient)
    assert one.losses == pytest.approx(many.losses, rel=1e-5)
    if name == "kto":
        assert one.records[0]["kl"] > 0


@pytest.mark.parametrize("objective", ["dpo", "kto", "bradley_terry"])
def test_gone_on_from_a_checkpoint_it_is_the_same_bits(objective: str, tiny_folder: Any, tmp_path: Path) -> None:
    model, of = tiny_folder("llama"), {"method": "lora", "lora": {"rank": 2, "dropout": 0.1}}
    whole = trial(objective, model, tmp_path, **of).fit(steps=STEPS, save_every=1, keep=STEPS)
    found, _ = latest(whole.folder, "hash", step=3)
    resumed = trial(objective, model, tmp_path, **of).fit(steps=STEPS, resume=found, folder=tmp_path / "on")
    assert all(torch.equal(value, resumed.weights[name]) for name, value in whole.weights.items())


def test_tokens_that_are_not_supervised_change_nothing_but_what_is_read(tiny_folder: Any, tmp_path: Path) -> None:
    """Pads, neighbours and the prompt's length in the batch: a row's outputs alone are those among others."""
    made = trial("dpo", tiny_folder("llama"), tmp_path, packing="off")
    prepared = made.prepared
    reader = prepared.objective.reader
    rows = prepared.train.rows
    with torch.no_grad():
        together = reader.outputs(prepared.backbone, reader.collate(rows))
        alone = [reader.outputs(prepared.backbone, reader.collate([row]))[0] for row in rows]
    for one, among in zip(alone, together, strict=True):
        torch.testing.assert_close(one, among, rtol=0, atol=1e-5)
