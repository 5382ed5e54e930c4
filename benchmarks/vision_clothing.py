"""Photographs of clothing by class: Luthier beside transformers.Trainer, on the same rows and the same pixels.

    python benchmarks/vision_clothing.py                    # what is not in results/vision_clothing.json yet
    python benchmarks/vision_clothing.py full luthier 0     # these measurements
    python benchmarks/vision_clothing.py --table            # of what was measured

2,060 photographs in 10 classes (at most 128 pixels); MobileNet 0.5, by its own rule at 128 pixels instead of 160: the
shortest edge to 146, the middle 128 of it. A photograph that is there twice counts once; a fifth is held out by a hash
of its content. Rates and C were set beforehand, the same on both sides, and no trial was made on either. The same are
also the pixels (those of transformers' own processor), AdamW, weight decay 0.01 on matrices, linear decay, clipping at
1, batches of 32, two epochs, fp32 and one thread; LoRA has rank 8 and alpha 16, on the same layers, and the new
classifier trains. What differs: the order of the rows, what is drawn at the start, and, under LoRA, batch
normalisation: Trainer takes each batch's own statistics in training, Luthier those of the checkpoint, as it does under
`full` with `batch_norm: frozen`, which is measured beside. PEFT is told the stride of each convolution that it wraps,
without which MobileNet does not run. `features` is fitted once: no seed changes it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import HERE, SHARED, Cell, arguments, conduct

EPOCHS, BATCH, SIDE = 2, 32, 128
RATES = {"full": 1e-3, "lora": 2e-3}
C = 0.1
VARIANTS = {  # of a method: side, batch_norm
    "full": (("luthier", "batch"), ("trainer", "batch"), ("luthier", "frozen")),
    "lora": (("luthier", "frozen"), ("trainer", "batch")),
}
CELLS: list[Cell] = [{"side": "luthier", "method": "features", "batch_norm": "frozen", "rate": C, "seed": 0}] + [
    {"side": side, "method": method, "batch_norm": norm, "rate": rate, "seed": seed}
    for seed in range(3)
    for method, rate in RATES.items()
    for side, norm in VARIANTS[method]
]


def rows_of() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Rows to learn and rows to score, each photograph once."""
    folder = SHARED / "data/clothing"
    rows = [json.loads(line) for line in (folder / "labels.jsonl").read_text(encoding="utf-8").splitlines()]
    known = {hashlib.sha256((folder / row["image"]).read_bytes()).hexdigest(): row for row in rows}
    ordered = [row | {"image": str(folder / row["image"])} for _, row in sorted(known.items())]
    return ordered[len(ordered) // 5 :], ordered[: len(ordered) // 5]


def encoder(folder: Path) -> str:
    path = folder / "mobilenet"
    shutil.copytree(SHARED / "models/mobilenet_v1_0.5_160", path)
    told = json.loads((path / "preprocessor_config.json").read_text())
    told |= {"size": {"shortest_edge": 146}, "crop_size": {"height": SIDE, "width": SIDE}}
    (path / "preprocessor_config.json").write_text(json.dumps(told))
    return str(path)


def measure(cell: Cell) -> dict[str, Any]:
    train, test = rows_of()
    with tempfile.TemporaryDirectory() as at:
        folder = Path(at)
        measured = luthier_side if cell["side"] == "luthier" else trainer_side
        return measured(cell, encoder(folder), train, test, folder) | {"train_rows": len(train), "test_rows": len(test)}


def luthier_side(
    cell: Cell, model: str, train: list[dict[str, str]], test: list[dict[str, str]], folder: Path
) -> dict[str, Any]:  # fmt: skip
    import luthier

    files = {}
    for name, rows in (("train", train), ("eval", test)):
        files[name] = str(folder / f"{name}.jsonl")
        Path(files[name]).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    keys: dict[str, Any] = {"features": {"C": cell["rate"]}}
    if cell["method"] != "features":
        keys = {"learning_rate": cell["rate"], "epochs": EPOCHS, "batch_size": BATCH, "final": "last"}
        keys |= {"batch_norm": cell["batch_norm"]} if cell["method"] == "full" else {}
    run = luthier.tune(
        task="classify", model=model, data=files, method=cell["method"], seed=cell["seed"], out=str(folder), **keys
    )
    result = run.result
    return {
        "score": result["after"]["accuracy"]["value"], "trainable": result["trainable"],
        "training_seconds": result["seconds"],
    }  # fmt: skip


def trainer_side(
    cell: Cell, path: str, train: list[dict[str, str]], test: list[dict[str, str]], folder: Path
) -> dict[str, Any]:  # fmt: skip
    import time

    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments, set_seed

    from luthier.data.media.pictures import decode

    torch.set_num_threads(1)
    set_seed(cell["seed"])
    labels = sorted({row["label"] for row in train})
    processor = AutoImageProcessor.from_pretrained(path)

    def read(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
        told = []
        for row in rows:
            pixels = processor(decode(Path(row["image"]))[0], return_tensors="pt")["pixel_values"][0]
            told.append({"pixel_values": torch.as_tensor(pixels), "labels": labels.index(row["label"])})
        return told

    model = AutoModelForImageClassification.from_pretrained(
        path, num_labels=len(labels), ignore_mismatched_sizes=True
    )  # fmt: skip
    if cell["method"] == "lora":
        model = with_lora(model)
    settings = arguments(
        str(folder), num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH, per_device_eval_batch_size=64,
        learning_rate=cell["rate"], seed=cell["seed"],
    )  # fmt: skip
    trainer = Trainer(model=model, args=TrainingArguments(**settings), train_dataset=read(train))
    began = time.perf_counter()
    trainer.train()
    seconds = round(time.perf_counter() - began, 2)
    held = read(test)
    found = trainer.predict(held).predictions.argmax(-1)
    right = sum(int(a) == row["labels"] for a, row in zip(found, held, strict=True))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"score": right / len(held), "trainable": trainable, "training_seconds": seconds}


def with_lora(model: Any) -> Any:
    import peft
    from torch import nn

    whole = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=whole, modules_to_save=["classifier"])
    wrapped = peft.get_peft_model(model, config)
    for module in wrapped.modules():
        if isinstance(module, peft.tuners.lora.Conv2d):
            base = module.get_base_layer()
            module.stride, module.kernel_size = base.stride, base.kernel_size
            module.padding, module.dilation = base.padding, base.dilation
    return wrapped


def table() -> str:
    found = json.loads((HERE / "results/vision_clothing.json").read_text(encoding="utf-8"))["rows"]
    names = {"luthier": "Luthier", "trainer": "Trainer"}
    lines = [
        "| method | | batch statistics | accuracy, mean ± sd (seeds) | numbers trained | training, s |",
        "|---|---|---|---|---|---|",
    ]
    for method, variants in {"features": (("luthier", "frozen"),), **VARIANTS}.items():
        for side, norm in variants:
            rows = [r for r in found if (r["side"], r["method"], r["batch_norm"]) == (side, method, norm)]
            if not rows:
                continue
            scores = [row["score"] for row in rows]
            spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
            seconds = statistics.median(row["training_seconds"] for row in rows)
            lines.append(
                f"| {method} | {names[side]} | {'own' if norm == 'batch' else 'kept'} | {statistics.mean(scores):.3f}"
                f"{spread} ({len(scores)}) | {rows[0]['trainable']:,} | {seconds:.0f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:] == ["--table"]:
        print(table())
    else:
        named = sys.argv[1:] if len(sys.argv) == 4 else []
        wanted = [c for c in CELLS if not named or [c["method"], c["side"], str(c["seed"])] == named]
        conduct("vision_clothing", wanted, measure)
