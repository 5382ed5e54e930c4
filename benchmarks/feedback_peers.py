"""Processor time and memory of learning from feedback beside TRL's trainers: the same rows, model and steps.

TRL_PYTHON=/path/to/python python benchmarks/feedback_peers.py       # writes results/feedback_peers.json, .md

`TRL_PYTHON` is an interpreter that has TRL. Each cell is a process of its own with one thread; what is told is its
processor time from the end of the imports to the saved model, and its largest resident memory. The starter model is
trained in full (no adapter, so that both sides train the same numbers), fp32, batches of eight rows, AdamW at 1e-5, on
short pairs of hh_harmless, 16 steps; for GRPO on the prompts of `reinforce-lora`, six steps of 32 answers of at most 48
tokens, with KL. Luthier's time has its checks and the reference's log-probabilities in it. Answers are drawn: no two
sides learn the same ones.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
LM = HERE.parent / "src/luthier/starter/lm"
WISHES = HERE.parent / "src/luthier/recipes/data/wishes/examples.jsonl"
CELLS = [(kind, side) for kind in ("dpo", "reward", "grpo") for side in ("luthier", "trl")]
STEPS = {"dpo": 16, "reward": 16, "grpo": 6}
RATE, LONGEST, NEW = 1e-5, 256, 48


def pairs() -> list[dict[str, Any]]:
    """128 with one question each, as prompt and two answers, short enough for either side to keep whole."""
    found = []
    with gzip.open(SHARED / "data/hh_harmless/pairs.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            sides = [row[side].split("\n\nAssistant:") for side in ("chosen", "rejected")]
            if all(len(parts) == 2 and len(" ".join(parts)) < 500 for parts in sides) and sides[0] != sides[1]:
                asked = sides[0][0].removeprefix("\n\nHuman:").strip()
                chosen, rejected = (parts[1].strip() for parts in sides)
                if asked and chosen and rejected and sides[0][0] == sides[1][0]:
                    found.append({"prompt": asked, "chosen": chosen, "rejected": rejected})
            if len(found) == 128:
                return found
    raise SystemExit("too few pairs")


def luthier_side(kind: str, folder: Path) -> dict[str, Any]:
    import luthier

    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in pairs()), encoding="utf-8")
    shared: dict[str, Any] = {
        "model": "starter:lm", "method": "full", "learning_rate": RATE, "batch_size": 8, "steps": STEPS[kind],
        "out": str(folder), "schedule": "constant", "warmup": 0, "precision": "fp32", "save_every": 1000,
        "eval_every": 1000,
    }  # fmt: skip
    keys: dict[str, dict[str, Any]] = {
        "dpo": {"task": "prefer", "objective": "dpo", "data": {"train": str(rows), "eval": 0.0}},
        "reward": {"task": "reward", "data": {"train": str(rows), "eval": 0.0}, "bradley_terry": {"centering": 0.0}},
        "grpo": {
            "task": "reinforce", "data": {"train": str(WISHES), "eval": 0.0}, "reinforce": {"rewards": ["contains"]},
            "grpo": {"group_size": 4, "max_new_tokens": NEW, "beta": 0.04},
        },
    }  # fmt: skip
    began = time.process_time()
    run = luthier.tune(shared | keys[kind])
    spent = time.process_time() - began
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    return {
        "cpu_seconds": spent,
        "losses": [steps[0]["loss"], steps[-1]["loss"]],
        "tokens": sum(s["tokens"] for s in steps),
    }


def trl_side(kind: str, folder: Path) -> dict[str, Any]:
    import datasets
    import transformers
    from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer

    tokenizer = transformers.AutoTokenizer.from_pretrained(LM)
    options: dict[str, Any] = {
        "output_dir": str(folder), "per_device_train_batch_size": 8, "max_steps": STEPS[kind], "learning_rate": RATE,
        "lr_scheduler_type": "constant", "use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no",
        "logging_steps": 1, "gradient_checkpointing": False, "weight_decay": 0.01, "disable_tqdm": True, "seed": 0,
    }  # fmt: skip
    asked = [{"role": "user", "content": ""}]
    rows = [
        {"prompt": [asked[0] | {"content": row["prompt"]}],
         **{side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}}
        for row in pairs()
    ]  # fmt: skip
    began = time.process_time()
    model: Any = {"dtype": "float32"}
    if kind == "grpo":
        wishes = [json.loads(line)["prompt"] for line in WISHES.read_text(encoding="utf-8").splitlines()]
        options |= {"per_device_train_batch_size": 32, "num_generations": 4, "max_completion_length": NEW, "beta": 0.04}
        made: Any = GRPOTrainer(
            model=str(LM), args=GRPOConfig(**options, model_init_kwargs=model), processing_class=tokenizer,
            reward_funcs=lambda completions, **more: [float("red" in one[0]["content"].lower()) for one in completions],
            train_dataset=datasets.Dataset.from_list([{"prompt": [asked[0] | {"content": one}]} for one in wishes]),
        )  # fmt: skip
    elif kind == "dpo":
        made = DPOTrainer(
            model=str(LM), args=DPOConfig(**options, max_length=LONGEST, model_init_kwargs=model),
            processing_class=tokenizer, train_dataset=datasets.Dataset.from_list(rows),
        )  # fmt: skip
    else:
        classifier = transformers.AutoModelForSequenceClassification.from_pretrained(LM, num_labels=1, dtype="float32")
        made = RewardTrainer(
            model=classifier, args=RewardConfig(**options, max_length=LONGEST), processing_class=tokenizer,
            train_dataset=datasets.Dataset.from_list(rows),
        )  # fmt: skip
    made.train()
    made.save_model()
    spent = time.process_time() - began
    losses = [one["loss"] for one in made.state.log_history if "loss" in one]
    return {"cpu_seconds": spent, "losses": [losses[0], losses[-1]], "tokens": int(made.state.num_input_tokens_seen)}


def main() -> None:
    if len(sys.argv) > 2:
        with tempfile.TemporaryDirectory() as folder:
            told = {"luthier": luthier_side, "trl": trl_side}[sys.argv[2]](sys.argv[1], Path(folder))
        print("\n" + json.dumps(told | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))
        return
    path = HERE / "results/feedback_peers.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    for kind, side in CELLS:
        if f"{kind} {side}" in found:
            continue
        python = os.environ["TRL_PYTHON"] if side == "trl" else sys.executable
        ran = subprocess.run([python, __file__, kind, side], env=environment, text=True, capture_output=True)
        if ran.returncode:
            raise SystemExit(ran.stderr[-2000:])
        found[f"{kind} {side}"] = json.loads(ran.stdout.strip().rpartition("\n")[2])
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(kind, side, found[f"{kind} {side}"], flush=True)
    lines = [
        "# Learning from feedback beside TRL",
        "",
        str(__doc__).rpartition("`TRL_PYTHON` is")[2].partition(". ")[2],
        "",
    ]
    lines += ["| | side | processor time, s | peak memory, MB | first and last loss |", "|---|---|---|---|---|"]
    for kind, side in CELLS:
        one = found[f"{kind} {side}"]
        losses = " and ".join(f"{loss:.4f}" for loss in one["losses"])
        lines.append(f"| {kind} | {side} | {one['cpu_seconds']:.1f} | {one['peak_mb']:,} | {losses} |")
    (HERE / "results/feedback_peers.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
