"""What every working cell must show: it ran, it learned, only what was chosen moved, and it opens again the same."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Container, Sequence, Set
from pathlib import Path
from typing import Any

import plain
import pytest
import torch
import toys
from safetensors.torch import load_file
from table import APART, CLASSIFY, ENCODER_DECODERS, HEADED, METHODS, Cell

import luthier
import tiny
from forks import forks
from luthier import Run, load
from luthier.data.formats.tagged import untagged
from luthier.types import Example, Refused

STEPS = 18
MARKS = ("prompt_embeddings", ".lora_", ".vera_lambda", ".oft_R", ".ia3_l", ".adapter.", ".adapter_fusion.")
HEADS = ("classifier", "score", "pooler", ".head.", "classification_head")


def recipe(cell: Cell, model: str, data: dict[str, str], out: Path) -> dict[str, Any]:
    """The keys that a person would write for this cell."""
    return {
        "task": "classify" if cell.task in CLASSIFY else cell.task, "model": model, "data": data, "out": str(out),
        "steps": STEPS, "batch_size": toys.TRAIN, "eval_every": STEPS, "final": "last", "schedule": "constant",
        "warmup": 0, **_with_members(cell, model, data, out),
    }  # fmt: skip


def _with_members(cell: Cell, model: str, data: dict[str, str], out: Path) -> dict[str, Any]:
    """The keys of the method; where it builds on other runs, random adapters stand in for trained ones."""
    text = json.dumps(METHODS[cell.method])
    for seed, name in enumerate("abc"):
        if f"{{{name}}}" not in text or cell.refusal:
            continue
        final = out / "members" / name / "final"
        if not final.is_dir():
            task = "classify" if cell.task in CLASSIFY else cell.task
            _, prepared = luthier.check(task=task, model=model, data=data, method="adapter", adapter={"size": 8})
            draw = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for parameter in prepared.adaptation.parameters.values():
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
            prepared.adaptation.save(final)
        text = text.replace(f"{{{name}}}", str(final.parent))
    return json.loads(text) | APART.get((cell.model, cell.task, cell.method), {})


def assert_learned(run: Run, cell: Cell, train: str) -> None:
    """The loss falls by a tenth; a fitted classifier beats the best constant answer on the rows it was fitted to.

    Constants: either colour is right for half of the rows (accuracy 1/2); 1.5 and -0.5 lie 1 from their mean (mae 1);
    of three labels every row has one and half of them one more, so naming all gives precision 1/2, recall 1, F1 2/3.
    """
    if not cell.method.startswith("features"):
        losses = of_each_step(run)
        assert len(losses) == APART.get((cell.model, cell.task, cell.method), {}).get("steps", STEPS)
        assert all(map(math.isfinite, losses))
        # A prompt alone steers a frozen random model, which has learned nothing that it could bring out, but little:
        # Mistral's loss settles 2 % lower at any rate. Each step reads the same rows, so that no fall is chance.
        least = 0.995 if cell.method.startswith("prompt") and cell.task not in HEADED else 0.9
        assert sum(losses[-3:]) < least * sum(losses[:3]), losses
        return
    metrics = {name: value["value"] for name, value in run.evaluate(train)["metrics"].items()}
    assert {
        "single": metrics.get("accuracy", 0) > 0.6,
        "multi": metrics.get("f1_micro", 0) > 0.7,
        "regression": metrics.get("mae", 9) < 0.9,
    }[cell.task], metrics


def chosen(cell: Cell, name: str) -> bool:
    """Whether a tensor of the checkpoint is one that the method trains, told by transformers' names."""
    leaf, last = name.rpartition(".")[2], tiny.LAYERS - 1
    after_blocks = any(part in name for part in ("ln_f", "final_norm", "model.norm.", "decoder.final_layer_norm"))
    in_head = name.startswith(("lm_head.", "head.", "classifier.", "score.", "classification_head."))
    in_last = f".{last}." in name
    if cell.model in ENCODER_DECODERS:  # their last block is the decoder's
        in_last = any(f"decoder.{blocks}.{last}." in name for blocks in ("block", "layers"))
    is_norm = any(part in name.lower() for part in ("norm", ".ln_"))
    return {
        "full": True,
        "freeze: head": in_head,
        "freeze: last 1": in_last or after_blocks or in_head,
        "freeze: norms": is_norm,
        "freeze: biases": leaf == "bias",
    }[cell.method]


def assert_only_chosen_moved(run: Run, cell: Cell, model: str) -> None:
    """Frozen tensors are bit-equal to the checkpoint's; of the chosen ones most have moved."""
    final = run.folder / "final"
    if cell.method.startswith("features"):
        assert not list(final.glob("model*.safetensors"))
        return
    if cell.saves != "whole":
        assert_only_added_is_saved(final, cell)
        return
    before, after = load_file(Path(model) / "model.safetensors"), load_file(final / "model.safetensors")
    if cell.task == "retrieve":  # a trunk alone, which a model with a head holds under a name
        trunk = next(name.removesuffix(some) for name in before for some in after if name.endswith(f".{some}"))
        after = {trunk + name: tensor for name, tensor in after.items()}
    # A classifier may hold under `transformer` what a writer holds at its top.
    after = {name if name in before else name.removeprefix("transformer."): tensor for name, tensor in after.items()}
    common = before.keys() & after.keys()
    assert len(common) > 10
    moved = {name for name in common if not torch.equal(before[name], after[name])}
    meant = {name for name in common if chosen(cell, name)}
    if cell.task in HEADED:  # what the checkpoint knows of the head trains with what is new in it
        meant |= {name for name in common if name.startswith("head.")}
    assert moved <= meant, sorted(moved - meant)
    assert len(moved) >= len(meant) / 2, sorted(meant - moved)


def assert_only_added_is_saved(final: Path, cell: Cell) -> None:
    """What the method brought, in the blocks, and a new head; for several, one folder each."""
    folders = [final] if cell.saves == "adapter" else [path.parent for path in final.glob("*/adapter_config.json")]
    assert len(folders) == cell.method.count("+") + 1
    for folder in folders:
        saved = load_file(folder / "adapter_model.safetensors")
        kind = json.loads((folder / "adapter_config.json").read_text())["peft_type"]
        if kind == "WEIGHTS":
            assert any("norm" in name.lower() or ".ln_" in name for name in saved)
            continue
        saved = {name: tensor for name, tensor in saved.items() if not name.startswith("base_model.vera_")}
        added = {name for name in saved if any(mark in name for mark in MARKS)}
        assert added
        assert all(any(part in name for part in ("layer", ".h.", ".block.", "prompt_")) for name in added)
        head = saved.keys() - added
        assert bool(head) == (cell.task in HEADED)
        assert all(any(part in name for part in HEADS) for name in head), head


def assert_opens_the_same(run: Run, cell: Cell, held_out: str) -> Run:
    """Opened anew, the metrics are those at the end of training, and the answers those in the samples."""
    again = load(run.folder)
    # PiSSA is saved as LoRA on the original weights, which regroups the same sums.
    close = {"rel": 1e-4, "abs": 1e-5} if cell.method == "lora: pissa" else {"rel": 1e-6, "abs": 1e-9}
    found, expected = again.evaluate(held_out)["metrics"], run.result["after"]
    for name in expected:
        assert found[name]["value"] == pytest.approx(expected[name]["value"], nan_ok=True, **close), name
    samples = [json.loads(line) for line in (run.folder / "samples.jsonl").read_text().splitlines()]
    if cell.method != "lora: pissa":
        answers = again.predict(_inputs(held_out), **again.predictor.task.sample_options)
        shown = [again.predictor.task.shown_answer(answer) for answer in answers]
        assert shown == [sample["after"] for sample in samples]
    return again


def assert_plain_gives_the_same(run: Run, cell: Cell, model: str, held_out: str) -> None:
    """transformers and PEFT alone, a row at a time, give the logits that we give for all rows at once.

    Within 1e-5 of the largest; 1e-4 for PiSSA, which is saved as LoRA on the original weights. What PEFT would open to
    other logits it must refuse.
    """
    predictor, final = run.predictor, run.folder / "final"
    assert run.info["opens_with"] == cell.opens_with
    if cell.opens_with == "luthier" and cell.saves == "adapter":
        with pytest.raises((KeyError, ValueError)):  # refused, rather than opened as something else
            plain.open_model(final, model, head=_head(cell))
        return
    if cell.saves == "several":
        return
    examples = [_example(row) for row in _inputs(held_out)[:4]]
    rows = [row | {"row": at} for at, example in enumerate(examples) for row in predictor.objective.encode(example)]
    features = cell.method.startswith("features")
    theirs = None if features else plain.open_model(final, model, head=_head(cell))
    if cell.task == "retrieve":
        pooling = json.loads((final / "embedding.json").read_text())["pooling"]
        for row, output in zip(rows, predictor.row_outputs(rows), strict=True):
            found, expected = torch.tensor(output["vector"]), plain.vector(theirs, row["input_ids"], pooling)
            torch.testing.assert_close(found, expected, atol=1e-4 if cell.method == "lora: pissa" else 1e-5, rtol=0)
        return
    ours = predictor.row_outputs(rows) if cell.task in CLASSIFY else _token_logits(predictor, rows)
    expected = [
        plain.features(final, model, row["input_ids"])
        if features
        else plain.logits(theirs, row["input_ids"], row.get("target_ids"))
        for row in rows
    ]
    bound = 1e-4 if cell.method == "lora: pissa" else 1e-5
    bound *= max(1.0, *(float(logits.abs().max()) for logits in expected))
    for found, logits in zip(ours, expected, strict=True):
        logits = logits if cell.task in CLASSIFY else logits[-len(found) :]  # PEFT gives the virtual tokens' as well
        torch.testing.assert_close(torch.as_tensor(found), logits, atol=bound, rtol=0)


def _head(cell: Cell) -> str:
    kinds = {"tag": "tokens", "retrieve": "none", **dict.fromkeys(CLASSIFY, "sequence")}
    return kinds.get(cell.task, "")


@torch.no_grad()
def _token_logits(predictor: Any, rows: list[dict[str, Any]]) -> list[torch.Tensor]:
    """(T, V) of each row, all rows in one batch; (T, C) of a head on tokens."""
    batch = predictor.objective.collate(rows)
    logits = predictor.backbone.position_logits if predictor.backbone.has_own_head else predictor.backbone.token_logits
    logits_TV = logits(predictor.backbone.hidden(batch))
    places = zip(batch["starts"].tolist(), batch["lengths"].tolist(), strict=True)
    return [logits_TV[start : start + length] for start, length in places]


def _inputs(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]


def _example(row: dict[str, Any]) -> Example:
    from luthier.types import INLINE

    if "tokens" in row:
        return untagged(row["tokens"])
    targets = [row["summary"]] if "summary" in row else None
    if "query" in row:
        return Example(INLINE, text=row["query"])
    return Example(INLINE, text=row.get("text", row.get("document")), messages=row.get("messages"), targets=targets)


def cases(
    cells: Sequence[tuple[str, ...]], default: Set[tuple[str, ...]], refusal: Callable[..., Any], wanted: bool
) -> list[Any]:
    """The cells that are refused, or that are not: as parameters of a test, slow where they are not in ``default``."""
    return [
        pytest.param(*cell, id=", ".join(cell), marks=[] if cell in default else pytest.mark.slow)
        for cell in cells
        if (refusal(*cell) is not None) == wanted
    ]


def place(name: str, role: str, tensors: Container[str]) -> str:
    """Where a composed model holds what its tower of this role has under ``name``; empty where it has none."""
    places = (name, f"model.{role}.{name}", f"model.{role}.{name.partition('.')[2]}")
    return next((one for one in places if one in tensors), "")


def of_each_step(run: Run, name: str = "loss") -> list[float]:
    records = map(json.loads, (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [record[name] for record in records if record["kind"] == "train"]


def assert_loss_fell(run: Run, to: float = 0.9, over: int = 3) -> None:
    """The mean of the last steps, ``over`` of them, is less than ``to`` of that of the first."""
    losses = of_each_step(run)
    assert sum(losses[-over:]) < to * sum(losses[:over]), losses


def judged_in_a_fresh_process(held_out: str, *runs: Run) -> list[dict[str, Any]]:
    """The metrics of each run, all of them opened in one process, which has imported and nothing else.

    That an interpreter of its own opens them to the same bits is told by ``test_fresh_process.py``."""
    script = "import luthier, json, sys\nfor folder in sys.argv[2:]:\n    "
    script += "print(json.dumps(luthier.load(folder).evaluate(sys.argv[1])['metrics']))"
    done = forks().run(script, held_out, *(str(run.folder) for run in runs), folder=Path.cwd())
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()[-len(runs) :]]


def assert_judged_the_same(
    run: Run, held_out: str, *, fresh: bool = True, rel: float = 1e-4, abs: float = 1e-5
) -> None:
    """Opened again, in a fresh process where asked for, it has the metrics that its training ended with."""
    (found,) = judged_in_a_fresh_process(held_out, run) if fresh else [load(run.folder).evaluate(held_out)["metrics"]]
    assert_same_metrics(run, found, rel=rel, abs=abs)


def assert_same_metrics(run: Run, found: dict[str, Any], *, rel: float = 1e-4, abs: float = 1e-5) -> None:
    for name, expected in run.result["after"].items():
        assert found[name]["value"] == pytest.approx(expected["value"], rel=rel, abs=abs), (run.folder, name)


def assert_refused(keys: dict[str, Any], code: str | None) -> None:
    """With one finding, which says what would mend it, and before a run folder is made."""
    with pytest.raises(Refused) as refused:
        luthier.tune(**keys)
    (finding,) = (finding for finding in refused.value.findings if finding.severity == "error")
    assert finding.code == code
    assert finding.mend
    assert not list(Path(keys["out"]).rglob("run.json"))
