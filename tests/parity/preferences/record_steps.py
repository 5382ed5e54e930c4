"""Record loss and gradient of TRL's process reward trainer. Not run by the tests: TRL is not among what they need.

python tests/parity/preferences/record_steps.py    # with trl 1.12, the last that has PRMTrainer; writes steps.json

It has two logits for each step, ours is their difference: its head's bias is 0 and its two rows are -w/2 and w/2.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "CUDA_VISIBLE_DEVICES": ""}
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import datasets  # noqa: E402
import small  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from trl.experimental.prm import PRMConfig, PRMTrainer  # noqa: E402

import tiny  # noqa: E402

ROWS = [
    {
        "prompt": "red cat and the",
        "completions": ["old dog", "small green bird", "house"],
        "labels": [True, False, True],
    },
    {"prompt": "the river", "completions": ["new tree and red"], "labels": [False]},
    {"prompt": "a", "completions": ["house blue river", "cat cat"], "labels": [True, True]},
]


def two_logits() -> Any:
    """The small model with a head of two logits, whose difference is that of the one with one."""
    one = small.build(0, scores=True)
    made = transformers.LlamaForTokenClassification(transformers.LlamaConfig(**small.SIZES, num_labels=2))
    made.model.load_state_dict(one.model.state_dict())
    with torch.no_grad():
        made.score.weight.copy_(torch.cat([-one.score.weight / 2, one.score.weight / 2]))
        made.score.bias.zero_()
    return made


def main() -> None:
    args = PRMConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=3, use_cpu=True, report_to=[], bf16=False,
        gradient_checkpointing=False, max_length=None, step_separator="\n",
    )  # fmt: skip
    trainer = PRMTrainer(
        model=two_logits(), args=args, train_dataset=datasets.Dataset.from_list(ROWS),
        processing_class=tiny.tokenizer(encoder=False),
    )  # fmt: skip
    model = trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    told = {name: p.grad for name, p in model.named_parameters() if p.grad is not None and name != "score.bias"}
    told["score.weight"] = told["score.weight"][1:]
    tables = {name for name, g in told.items() if len(g) == small.SIZES["vocab_size"]}
    case = {
        "rows": [row(*one) for one in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)],
        "loss": loss.item(), "gradients": {name: g.tolist() for name, g in told.items() if name not in tables},
        "norms": {name: g.norm().item() for name, g in told.items() if name in tables},
    }  # fmt: skip
    (HERE / "steps.json").write_text(json.dumps({"trl": version("trl"), **case}) + "\n", encoding="utf-8")


def row(ids: Any, attention: Any, labels: Any) -> dict[str, Any]:
    """Ids, and (place, label) of each judged token."""
    real = attention.bool()
    told = [(at, int(label)) for at, label in enumerate(labels[real].tolist()) if label >= 0]
    return {"input_ids": ids[real].tolist(), "judged": told}


if __name__ == "__main__":
    main()
