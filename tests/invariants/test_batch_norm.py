"""Batch normalisation that takes each batch's own statistics: a plain loop's numbers, undone where it must leave no
trace, and refused where a step would be cut."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from helpers import Trial, Wrapped, ready
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import luthier
import tiny
from luthier.engine.batching import Order
from luthier.engine.checkpoint import latest
from luthier.models import across
from luthier.models.modes import keep_alone, statistics
from luthier.runs import normalising
from luthier.types import LossTerms, Refused

RATE = 1e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("normalised")
    tiny.save_image_model("resnet", made / "resnet")
    return made


def rows_of(folder: Path, count: int = 10) -> list[dict[str, Any]]:
    paths = [tiny.save_picture(folder / f"{i}.png", ("red", "green")[i % 2], seed=i) for i in range(count)]
    return [{"image": str(path), "label": ("red", "green")[i % 2]} for i, path in enumerate(paths)]


def trial(folder: Path, tmp_path: Path, **keys: Any) -> Trial:
    keys = {"method": "full", "batch_size": 4, "out": str(tmp_path), **keys}
    return Trial(ready(str(folder / "resnet"), "classify", rows_of(folder), tmp_path, **keys), tmp_path)


def moving(made: Trial) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in statistics(made.prepared.adaptation.batch_norms).items()}


def put(made: Trial, before: dict[str, Tensor]) -> None:
    for name, tensor in statistics(made.prepared.adaptation.batch_norms).items():
        tensor.copy_(before[name])


def codes(findings: Any, severity: str) -> set[str]:
    return {finding.code for finding in findings if finding.severity == severity}


def test_steps_are_those_of_a_plain_loop_in_training_mode(folder: Path, tmp_path: Path) -> None:
    """transformers' ResNet in `train()`, AdamW, ten rows in steps of 4, 4 and 2: losses, weights, statistics."""
    made = trial(folder, tmp_path)
    peer = transformers.AutoModelForImageClassification.from_pretrained(folder / "resnet", num_labels=2)
    peer.load_state_dict({n: t.clone() for n, t in made.prepared.backbone.model.state_dict().items()})
    processor = transformers.AutoImageProcessor.from_pretrained(folder / "resnet")
    given = rows_of(folder)
    pixels = processor([Image.open(row["image"]) for row in given], return_tensors="pt")["pixel_values"]
    labels = torch.tensor([made.prepared.train.rows[i]["target"] for i in range(len(given))])
    optimizer = torch.optim.AdamW(peer.parameters(), lr=RATE, weight_decay=0.0)
    order, losses = Order(len(given), 4, 0, "data"), []
    peer.train()
    for step in range(6):
        rows = order.step(step)
        loss = peer(pixel_values=pixels[rows], labels=labels[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    trained = made.fit(steps=6, batch_size=4, uncut=True)
    assert trained.losses == pytest.approx(losses, rel=1e-5)
    expected = peer.state_dict()
    for name, found in made.prepared.backbone.model.state_dict().items():
        assert (found - expected[name]).abs().max() <= 2e-5, name
    assert any(not peer.get_buffer(name).eq(0).all() for name in expected if "running_mean" in name)


def test_a_run_gone_on_with_and_one_that_was_judged_end_at_the_same_bits(folder: Path, tmp_path: Path) -> None:
    made = trial(folder, tmp_path)
    begun = moving(made)

    def judged() -> dict[str, float]:
        with torch.no_grad():
            rows = made.prepared.objective.collate(made.prepared.train.rows[:3])
            made.prepared.backbone.model.eval()
            return {"loss": float(made.prepared.objective.loss(made.prepared.backbone, rows).total)}

    def ended(**keys: Any) -> tuple[dict[str, Tensor], Path]:
        put(made, begun)
        trained = made.fit(steps=6, batch_size=4, uncut=True, **keys)
        return trained.weights | moving(made), trained.folder

    whole, _ = ended()
    seen, _ = ended(evaluate=judged, eval_every=1)
    _, stopped = ended(save_every=3)
    found, _ = latest(stopped, "hash", step=3)
    assert found is not None
    resumed, _ = ended(resume=found)
    assert any(not whole[name].equal(begun[name]) for name in begun)
    assert all(whole[name].equal(seen[name]) and whole[name].equal(resumed[name]) for name in whole)


def test_a_loss_that_is_not_finite_moves_no_statistics(folder: Path, tmp_path: Path) -> None:
    made = trial(folder, tmp_path)
    before, objective = moving(made), made.prepared.objective

    def broken(backbone: Any, batch: Any) -> LossTerms:
        terms = objective.loss(backbone, batch)
        return LossTerms(terms.total * float("nan"), terms.count)

    made.fit(objective=Wrapped(objective, loss=broken), steps=1, batch_size=4, uncut=True)
    assert all(tensor.equal(before[name]) for name, tensor in moving(made).items())


def test_no_memory_for_a_step_is_an_error_and_no_cut(folder: Path, tmp_path: Path) -> None:
    made = trial(folder, tmp_path)

    def greedy(backbone: Any, batch: Any) -> LossTerms:
        raise MemoryError

    with pytest.raises(Refused, match="batch_norm: frozen"):
        made.fit(objective=Wrapped(made.prepared.objective, loss=greedy), steps=1, batch_size=4, uncut=True)


def test_one_number_a_channel_keeps_the_statistics_that_there_are() -> None:
    """Torch raises there; two numbers, 1 and 3 of mean 2 and variance 1, become -1 and 1 (but for eps)."""
    layer = torch.nn.BatchNorm1d(1, eps=1e-12).train()
    layer.register_forward_pre_hook(keep_alone)
    assert layer(torch.tensor([[5.0]])).item() == 5.0
    assert layer.running_mean is not None
    assert layer.running_mean.item() == 0.0
    layer.train()
    assert layer(torch.tensor([[1.0], [3.0]])).flatten().tolist() == pytest.approx([-1.0, 1.0])
    assert layer.running_mean.item() == pytest.approx(0.1 * 2)


def test_what_the_recipe_says_and_what_it_is_settled_to(folder: Path, tmp_path: Path) -> None:
    def settled(**keys: Any) -> tuple[str, bool, set[str], set[str]]:
        data = {"train": tiny.write_jsonl(tmp_path / "rows.jsonl", rows_of(folder)), "eval": 0.0}
        given = {"task": "classify", "model": str(folder / "resnet"), "data": data, "batch_size": 4, **keys}
        findings, prepared = luthier.check(**given)
        assert prepared is not None
        told = prepared.resolved.recipe.batch_norm, bool(prepared.adaptation.batch_norms)
        return *told, codes(findings, "error"), codes(findings, "warning")

    assert settled(method="full") == ("batch", True, set(), set())
    assert settled(method="full", batch_norm="frozen") == ("frozen", False, set(), set())
    assert settled(method="lora") == ("auto", False, set(), set())
    assert settled(method={"freeze": {"train": ["norms", "head"]}})[:2] == ("auto", False)
    cut = {"method": "full", "micro_tokens": 8}
    assert settled(**cut) == ("frozen", False, set(), {"method.batch-norm"})
    assert settled(**cut, batch_norm="batch")[2] == {"method.batch-norm"}
    assert settled(method="lora", batch_norm="batch")[2] == {"recipe.combination"}


def test_two_processes_share_out_a_step_that_would_not_fit_into_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four pictures of 16 tokens in 32 are two for each; three rows are one and two. What reads rows twice, or could
    leave a process without a picture, keeps the checkpoint's."""

    def why(task: str, model: Any, rows: list[dict[str, Any]], bare: int = 0, **keys: Any) -> str:
        data = {"train": tiny.write_jsonl(tmp_path / f"{task}.jsonl", rows), "eval": 0.0}
        _, prepared = luthier.check(task=task, model=model, data=data, batch_size=4, method="full", **keys)
        assert prepared is not None
        for row in prepared.train.rows[:bare]:
            row["pictures"] = []
        monkeypatch.setattr(normalising, "_world", lambda: 2)
        found = normalising._cut(prepared)
        monkeypatch.undo()
        return found

    alone, rows = str(folder / "resnet"), rows_of(folder)
    assert why("classify", alone, rows, micro_tokens=32) == ""
    assert "for each of 2 processes" in why("classify", alone, rows, micro_tokens=31)
    text = tiny.save("bert", tmp_path / "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    asked = [row | {"question": f"the {tiny.WORDS[3 + i % 9]} one"} for i, row in enumerate(rows)]
    both = {"image": alone, "text": text, "fuse": "concatenation"}
    assert why("classify", both, asked) == ""
    assert "some rows have no picture" in why("classify", both, asked, bare=1)
    told = [{"image": row["image"], "caption": row["question"]} for row in asked]
    assert "twice over 2 processes" in why("match", both | {"fuse": "similarity"}, told)


def as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process, which no group was made for."""
    found = SimpleNamespace(get_world_size=lambda: 1, get_rank=lambda: 0, all_reduce=lambda tensor: None)
    monkeypatch.setattr(across, "dist", found)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_shared_statistics_are_torchs(momentum: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs, gradients and running statistics of torch's layer, in training and after; means far from 0."""
    as_alone(monkeypatch)
    torch.manual_seed(0)
    theirs, ours = (torch.nn.BatchNorm2d(3, momentum=momentum) for _ in range(2))
    across.join([ours])
    for _ in range(2):
        given = 100 + torch.randn(4, 3, 5, 2)
        found = []
        for layer in (theirs, ours):
            x = given.clone().requires_grad_()
            made = layer(x)
            (made.square() * torch.arange(made.numel()).view_as(made)).sum().backward()
            assert layer.weight.grad is not None
            found.append((made, x.grad, layer.weight.grad, layer.running_mean, layer.running_var))
        for our, their in zip(found[1], found[0], strict=True):
            torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-3)
    given = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(ours.eval()(given), theirs.eval()(given), rtol=1e-5, atol=1e-5)


def test_rows_that_do_not_count_move_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 and 3, of mean 2, variance 1 and unbiased variance 2; one number alone is left as evaluation has it."""
    as_alone(monkeypatch)
    layer = torch.nn.BatchNorm1d(1, eps=1e-12).train()
    across.join([layer])
    with across.counted(False):
        assert layer(torch.tensor([[1.0], [3.0]])).flatten().tolist() == pytest.approx([1.0, 3.0])
    assert layer(torch.tensor([[5.0]])).item() == pytest.approx(5.0)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert (layer.running_mean.item(), layer.running_var.item()) == (0.0, 1.0)
    assert layer(torch.tensor([[1.0], [3.0]])).flatten().tolist() == pytest.approx([-1.0, 1.0])
    assert layer.running_mean.item() == pytest.approx(0.2)
    assert layer.running_var.item() == pytest.approx(0.9 + 0.1 * 2)


def test_a_tower_tuned_whole_beside_lora_opens_again_with_its_statistics(folder: Path, tmp_path: Path) -> None:
    text = tiny.save("bert", tmp_path / "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    rows = [row | {"question": f"the {tiny.WORDS[3 + i % 9]} one"} for i, row in enumerate(rows_of(folder))]
    data = {"train": tiny.write_jsonl(tmp_path / "rows.jsonl", rows), "eval": 0.0}
    run = luthier.tune(
        task="classify", model={"image": str(folder / "resnet"), "text": text, "fuse": "concatenation"}, data=data,
        method={"vision": "full", "text": "lora"}, batch_size=4, steps=3, learning_rate=1e-2, out=str(tmp_path / "out"),
    )  # fmt: skip
    saved = load_file(run.folder / "final" / "vision" / "adapter_model.safetensors")
    kept = {name: tensor for name, tensor in saved.items() if "running_" in name}
    assert len(kept) > 4
    model = luthier.load(run.folder).predictor.backbone.model
    opened = {f"base_model.model.{name}": buffer for name, buffer in model.named_buffers()}
    assert all(opened[name].equal(tensor) for name, tensor in kept.items())
    began = load_file(folder / "resnet" / "model.safetensors")
    assert not any(tensor.equal(old) for tensor in kept.values() for old in began.values() if old.shape == tensor.shape)
