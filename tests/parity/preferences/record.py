"""Record losses and gradients of TRL's preference trainers. Not run by the tests: TRL is not among what they need.

python tests/parity/preferences/record.py        # with trl 1.16 installed; writes fixtures.json beside it

Each case has the batch that the trainer made (ids, and which of them are supervised), its loss, and the gradient of
every parameter but the tables of the vocabulary, of which the norm is kept. Policy and reference are two small models.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import datasets  # noqa: E402
import small  # noqa: E402
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer  # noqa: E402
from trl.experimental.cpo import CPOConfig, CPOTrainer  # noqa: E402
from trl.experimental.orpo import ORPOConfig, ORPOTrainer  # noqa: E402

import tiny  # noqa: E402

PAIRS = [
    {"prompt": "red cat and the", "chosen": " old dog", "rejected": " small green bird house"},
    {"prompt": "the river", "chosen": " new tree and red", "rejected": " blue"},
    {"prompt": "a", "chosen": " house blue river", "rejected": " cat cat"},
]
# One token asks, so that a loss on prompt and answer is one on the answer; chosen answers of one length, so that means
# over tokens are means over rows.
ALIKE = [
    {"prompt": "red", "chosen": " old dog", "rejected": " small green bird"},
    {"prompt": "the", "chosen": " new tree", "rejected": " blue"},
]
KEYS = ("input_ids", "attention_mask", "completion_mask")
THUMBS = [
    {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
    for row, side in zip(PAIRS, ("chosen", "rejected", "chosen"), strict=True)
]


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    tokenizer = tiny.tokenizer(encoder=False)
    cases: list[dict[str, Any]] = []
    for name, options in (
        ("dpo", {"loss_type": ["sigmoid"], "beta": 0.3}),
        ("dpo-robust", {"loss_type": ["robust"], "beta": 0.3, "label_smoothing": 0.2}),
        ("dpo-normalized", {"loss_type": ["sigmoid_norm"], "beta": 2.0}),
        ("ipo", {"loss_type": ["ipo"], "beta": 0.3}),
    ):
        made = DPOTrainer(
            model=small.build(0), ref_model=small.build(1), args=config(DPOConfig, folder, **options),
            train_dataset=datasets.Dataset.from_list(PAIRS), processing_class=tokenizer,
        )  # fmt: skip
        cases.append({"case": name, **ask(made, both)})
    cpo = {"beta": 0.3, "label_smoothing": 0.1, "cpo_alpha": 0.7}
    for name, options in (
        ("cpo", {"loss_type": "sigmoid", **cpo}),
        ("simpo", {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.8, "cpo_alpha": 0.0}),
    ):
        rows = PAIRS if name == "simpo" else ALIKE
        made = CPOTrainer(
            model=small.build(0), args=config(CPOConfig, folder, max_length=40, **options),
            train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer,
        )  # fmt: skip
        cases.append({"case": name, **ask(made, apart)})
    tokenizer = tiny.tokenizer(encoder=False)
    tokenizer.bos_token = None  # else it and the one token that asks would be two, and the second learned
    made = ORPOTrainer(
        model=small.build(0), args=config(ORPOConfig, folder, max_length=40, beta=0.4),
        train_dataset=datasets.Dataset.from_list(ALIKE), processing_class=tokenizer,
    )  # fmt: skip
    cases.append({"case": "orpo", **ask(made, apart)})
    tokenizer = tiny.tokenizer(encoder=False)
    made = KTOTrainer(
        model=small.build(0), ref_model=small.build(1),
        args=config(KTOConfig, folder, beta=0.3, desirable_weight=1.5, undesirable_weight=0.5),
        train_dataset=datasets.Dataset.from_list(THUMBS), processing_class=tokenizer,
    )  # fmt: skip
    cases.append({"case": "kto", **ask(made, single)})
    made = RewardTrainer(
        model=small.build(0, scores=True), args=config(RewardConfig, folder, center_rewards_coefficient=0.1),
        train_dataset=datasets.Dataset.from_list(
            [row | {"margin": margin} for row, margin in zip(PAIRS, (0.5, 1.0, 0.25), strict=True)]
        ),
        processing_class=tokenizer,
    )  # fmt: skip
    cases.append({"case": "reward", **ask(made, scored)})
    text = json.dumps({"trl": version("trl"), "cases": cases})
    (HERE / "fixtures.json").write_text(text + "\n", encoding="utf-8")


def config(kind: Any, folder: Path, **options: Any) -> Any:
    return kind(
        output_dir=str(folder), per_device_train_batch_size=3, use_cpu=True, report_to=[], bf16=False,
        gradient_checkpointing=False, **options,
    )  # fmt: skip


def ask(trainer: Any, rows: Any) -> dict[str, Any]:
    """The first batch, its loss and its gradient."""
    model = trainer.model
    model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    tables = {name for name, p in model.named_parameters() if len(p) == small.SIZES["vocab_size"]}
    return {
        "rows": rows(batch), "loss": loss.item(),
        "gradients": {name: g.tolist() for name, g in gradients.items() if name not in tables},
        "norms": {name: g.norm().item() for name, g in gradients.items() if name in tables},
    }  # fmt: skip


def sequence(ids: Any, attention: Any, supervised: Any) -> dict[str, Any]:
    real = attention.bool()
    return {"input_ids": ids[real].tolist(), "supervised": supervised[real].bool().tolist()}


def both(batch: Any) -> list[Any]:
    """Chosen sequences, then rejected ones."""
    found = [sequence(*one) for one in zip(*(batch[key] for key in KEYS), strict=True)]
    half = len(found) // 2
    return [list(pair) for pair in zip(found[:half], found[half:], strict=True)]


def apart(batch: Any) -> list[Any]:
    sides = []
    for side in ("chosen", "rejected"):
        ids, mask, labels = (batch[f"{side}_{key}"] for key in ("input_ids", "attention_mask", "labels"))
        sides.append([sequence(i, m, label != -100) for i, m, label in zip(ids, mask, labels, strict=True)])
    return [list(pair) for pair in zip(*sides, strict=True)]


def single(batch: Any) -> list[Any]:
    """Own and unrelated sequence, and the thumb."""
    own, other = (
        [sequence(*one) for one in zip(*(batch[f"{prefix}{key}"] for key in KEYS), strict=True)]
        for prefix in ("", "KL_")
    )
    return [[mine, theirs, bool(up)] for mine, theirs, up in zip(own, other, batch["label"], strict=True)]


def scored(batch: Any) -> list[Any]:
    found = [sequence(i, m, m) for i, m in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    half = len(found) // 2
    return [[*pair, float(m)] for *pair, m in zip(found[:half], found[half:], batch["margin"], strict=True)]


if __name__ == "__main__":
    main()
