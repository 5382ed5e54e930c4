"""Speed and memory, side by side in one run: Luthier, transformers.Trainer + PEFT, and TRL's SFTTrainer.

    python benchmarks/speed.py                     # every cell, a table on the terminal and in benchmarks/results/
    python benchmarks/speed.py sft_32k --rounds 3  # one cell

Same model, weights, rows, order of rows, batch size, precision (fp32), optimizer and learning rate; dropout 0. Every
variant runs in a process of its own, A B C A B C, so that a drift of the machine's speed falls on all alike. What is
compared: the median time of a step after two for warming up (for `frozen`: the whole of three epochs), and the peak of
resident memory above what the loaded model takes. A cell whose losses differ by more than 1e-4 prints no speed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
TOLERANCE = 1e-4
WARM = 2

CELLS: dict[str, dict[str, Any]] = {
    "sft_32k": {"kind": "sft", "method": "lora", "batch": 8, "steps": 8, "vocabulary": 32_000, "length": 150},
    "sft_150k": {"kind": "sft", "method": "lora", "batch": 4, "steps": 8, "vocabulary": 151_936, "length": 165},
    "classify_lora": {"kind": "classify", "method": "lora", "batch": 32, "steps": 12},
    "classify_full": {"kind": "classify", "method": "full", "batch": 32, "steps": 12},
    "frozen": {"kind": "classify", "method": "freeze", "batch": 32, "steps": 48, "rows": 512, "whole": True},
}
VARIANTS = {"sft": ["luthier", "trainer", "trl", "trl_fp32"], "classify": ["luthier", "trainer"]}
NAMES = {
    "luthier": "Luthier",
    "trainer": "Trainer + PEFT",
    "trl": "TRL, its defaults (bf16, checkpointing)",
    "trl_fp32": "TRL, fp32, no checkpointing",
}


# The same model and rows for everyone ---------------------------------------------------------------------------------


def language_model(vocabulary: int) -> Any:
    """A Llama of 8 layers and width 512, random weights from a seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def chat_rows(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of ragged length (log-normal), a prompt and a supervised answer of about 45 %."""
    draw = np.random.default_rng(0)
    rows = []
    for row in range(cell["batch"] * cell["steps"]):
        length = int(np.clip(draw.lognormal(np.log(cell["length"]) - 0.18, 0.6), 24, 700))
        answer = int(length * draw.uniform(0.3, 0.6))
        ids = draw.integers(10, cell["vocabulary"], length).tolist()
        supervised = [False] * (length - answer) + [True] * answer
        rows.append({"row": row, "input_ids": ids, "supervised": supervised, "weight": 1.0})
    return rows


def classifier() -> tuple[Any, Any]:
    """The starter encoder with a new head of two classes, and its tokenizer."""
    from luthier.models.load import load
    from luthier.models.locate import locate

    path, findings = locate("starter:minilm", Path.cwd())
    assert not findings, findings
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    backbone = load("starter:minilm", path, "sequence_logits", config={"num_labels": 2, **dropout})
    return backbone.model, backbone.tokenizer


def text_rows(cell: dict[str, Any], tokenizer: Any) -> list[dict[str, Any]]:
    """Rows of rt_polarity, tokenized."""
    import gzip

    with gzip.open(SHARED / "data/rt_polarity/train.jsonl.gz", "rt") as file:
        given = [json.loads(line) for line in file][: cell.get("rows", cell["batch"] * cell["steps"])]
    encoded = tokenizer([row["text"] for row in given])["input_ids"]
    rows = zip(encoded, given, strict=True)
    return [{"row": i, "input_ids": ids, "target": row["label"], "weight": 1.0} for i, (ids, row) in enumerate(rows)]


def steps_of(cell: dict[str, Any], rows: list[dict[str, Any]]) -> list[list[int]]:
    """Row indices of each step, in Luthier's order, for everyone."""
    from luthier.engine.batching import Order

    order = Order(len(rows), cell["batch"], 0, "benchmark")
    return [order.step(step) for step in range(cell["steps"])]


def same_adapter(model: Any) -> None:
    """LoRA's A from a seed and its name, B zero: equal numbers whoever injected them."""
    for name, parameter in sorted(model.named_parameters(), key=lambda pair: pair[0].removeprefix("base_model.model.")):
        if ".lora_A." in name:
            torch.manual_seed(len(name.removeprefix("base_model.model.")) * 7919 + parameter.shape[1])
            torch.nn.init.kaiming_uniform_(parameter, a=5**0.5)


class Memory:
    """Peak of resident memory above what there was at the start, in MB, as the kernel counts it."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self.before = self._read("VmRSS")

    def peak(self) -> int:
        return (self._read("VmHWM") - self.before) // 1024

    def _read(self, key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


# The variants ---------------------------------------------------------------------------------------------------------


def run_luthier(cell: dict[str, Any]) -> dict[str, Any]:
    import tempfile

    from luthier.engine.fit import fit, trunk_is_frozen
    from luthier.engine.parallel import Processes
    from luthier.engine.plan import Plan
    from luthier.engine.precision import choose_matmul
    from luthier.evaluate.outputs import Reader
    from luthier.methods import METHODS
    from luthier.models.attention import register
    from luthier.models.backbone import Backbone
    from luthier.objectives import OBJECTIVES

    register()
    if cell["kind"] == "sft":
        model, tokenizer, objective, needs = language_model(cell["vocabulary"]), None, "next_token", "token_logits"
        rows = chat_rows(cell)
    else:
        model, tokenizer = classifier()
        rows, objective, needs = text_rows(cell, tokenizer), "classification", "sequence_logits"
    backbone = Backbone(model, tokenizer or SimpleNamespace(pad_token_id=0), "model", "model", needs)
    backbone.choose_layout("on")
    method = METHODS.load(cell["method"])
    adaptation = method.adapt(backbone, method.Options())
    same_adapter(model)
    module = OBJECTIVES.load(objective)
    loss = module.Objective(module.Options(), backbone, None)
    matmul, _ = choose_matmul("auto", torch.device("cpu"))
    plan = Plan(
        steps=cell["steps"], batch_size=cell["batch"], learning_rate=1e-4, schedule="constant", warmup=0,
        weight_decay=0.0, max_grad_norm=1.0, micro_tokens=4096, eval_every=10**9, save_every=10**9, patience=None,
        keep=1, seed=0, metric="loss", higher_is_better=False, precision="fp32", matmul=matmul, recipe_hash="benchmark",
        data_hash="benchmark", final="last",
    )  # fmt: skip
    records: list[tuple[float, float, float]] = []
    memory, began, cpu = Memory(), time.perf_counter(), time.process_time()
    if trunk_is_frozen(backbone, adaptation):
        hidden = Reader(backbone, micro_tokens=4096, matmul=matmul).hidden(rows, backbone.reads)
        rows = [row | {"hidden_LD": states} for row, states in zip(rows, hidden, strict=True)]

    def emit(record: dict[str, Any]) -> None:
        records.append((record["loss"], time.perf_counter() - began, time.process_time() - cpu))

    with tempfile.TemporaryDirectory() as folder:
        fit(
            backbone, adaptation, loss, rows, plan, evaluate=None, emit=emit, processes=Processes(), folder=Path(folder)
        )  # fmt: skip
    return told(records, memory)


def run_peer(cell: dict[str, Any], variant: str) -> dict[str, Any]:
    import peft
    from datasets import Dataset
    from torch.utils.data import SequentialSampler

    if cell["kind"] == "sft":
        model = language_model(cell["vocabulary"])
        rows = chat_rows(cell)
        steps = steps_of(cell, rows)
        ordered = [rows[i] for step in steps for i in step]
        labels = [[i if s else -100 for i, s in zip(r["input_ids"], r["supervised"], strict=True)] for r in ordered]
        data = {"input_ids": [row["input_ids"] for row in ordered], "labels": labels}
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        task_type = "CAUSAL_LM"
    else:
        model, tokenizer = classifier()
        rows = text_rows(cell, tokenizer)
        ordered = [rows[i] for step in steps_of(cell, rows) for i in step]
        data = {"input_ids": [row["input_ids"] for row in ordered], "labels": [row["target"] for row in ordered]}
        targets, task_type = ["query", "key", "value", "dense"], "SEQ_CLS"
    if cell["method"] == "lora":
        exclude = [name for name, _ in model.named_modules() if "pooler" in name]
        lora = peft.LoraConfig(
            r=8, lora_alpha=16, target_modules=targets, exclude_modules=exclude or None, task_type=task_type
        )
        model = peft.get_peft_model(model, lora)
        same_adapter(model)
    if cell["method"] == "freeze":
        model.base_model.requires_grad_(False)

    records: list[tuple[float, float, float]] = []

    class Timed:
        """Takes each step's loss and time, in the place where a trainer computes them."""

        def _get_train_sampler(self, *_: Any) -> Any:
            return SequentialSampler(self.train_dataset)  # type: ignore[attr-defined]

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            if records:  # the step before ended where this one begins
                records[-1] = (records[-1][0], time.perf_counter() - began, time.process_time() - cpu)
            loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
            records.append((float(loss), 0.0, 0.0))
            return loss

    trainer = (trl_trainer if variant.startswith("trl") else hf_trainer)(Timed, model, data, cell, variant, Dataset)
    memory, began, cpu = Memory(), time.perf_counter(), time.process_time()
    trainer.train()
    records[-1] = (records[-1][0], time.perf_counter() - began, time.process_time() - cpu)
    return told(records, memory)


def common(cell: dict[str, Any]) -> dict[str, Any]:
    return {
        "output_dir": os.environ.get("TMPDIR", "/tmp") + "/luthier-benchmark", "use_cpu": True, "report_to": "none",
        "per_device_train_batch_size": cell["batch"], "max_steps": cell["steps"], "learning_rate": 1e-4,
        "lr_scheduler_type": "constant", "weight_decay": 0.0, "max_grad_norm": 1.0, "logging_steps": 1,
        "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip


def hf_trainer(timed: Any, model: Any, data: Any, cell: dict[str, Any], variant: str, dataset: Any) -> Any:
    from transformers import Trainer, TrainingArguments

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        ids = [row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows]
        mask = [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows]
        labels = [
            label + [-100] * (longest - len(label)) if isinstance(label, list) else label
            for label in (row["labels"] for row in rows)
        ]
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "labels": torch.tensor(labels)}

    kind = type("TimedTrainer", (timed, Trainer), {})
    arguments = TrainingArguments(**common(cell))
    return kind(model=model, args=arguments, train_dataset=dataset.from_dict(data), data_collator=collate)


def trl_trainer(timed: Any, model: Any, data: Any, cell: dict[str, Any], variant: str, dataset: Any) -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    settings = common(cell) | {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    if variant == "trl_fp32":
        settings |= {"bf16": False, "gradient_checkpointing": False}
    kind = type("TimedSFTTrainer", (timed, SFTTrainer), {})
    arguments = SFTConfig(**settings)
    return kind(model=model, args=arguments, train_dataset=dataset.from_dict(data), processing_class=tokenizer)


def told(records: list[tuple[float, float, float]], memory: Memory) -> dict[str, Any]:
    walls = np.diff([0.0, *(wall for _, wall, _ in records)])
    cpus = np.diff([0.0, *(cpu for _, _, cpu in records)])
    return {
        "losses": [loss for loss, _, _ in records],
        "wall_ms": 1000 * float(np.median(walls[WARM:])),
        "cpu_ms": 1000 * float(np.median(cpus[WARM:])),
        "whole_s": records[-1][1],
        "whole_cpu_s": records[-1][2],
        "memory_mb": memory.peak(),
    }


# Side by side ---------------------------------------------------------------------------------------------------------


def one(cell: str, variant: str) -> None:
    """A variant in this process; its figures as the last line of standard output."""
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    found = run_luthier(CELLS[cell]) if variant == "luthier" else run_peer(CELLS[cell], variant)
    print("\n" + json.dumps(found))


def measure(cell: str, rounds: int, threads: int) -> dict[str, Any]:
    variants = [v for v in VARIANTS[CELLS[cell]["kind"]] if not v.startswith("trl") or installed("trl")]
    runs: dict[str, list[dict[str, Any]]] = {variant: [] for variant in variants}
    for _ in range(rounds):
        for variant in variants:
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
            command = [sys.executable, __file__, "--one", cell, variant]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{cell} {variant} failed:\n{done.stderr[-3000:]}")
            runs[variant].append(json.loads(done.stdout.strip().splitlines()[-1]))
    return {"cell": cell, "threads": threads, "runs": runs}


def installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


def rows_of(found: dict[str, Any]) -> list[list[str]]:
    runs, whole = found["runs"], CELLS[found["cell"]].get("whole")
    wall, cpu = ("whole_s", "whole_cpu_s") if whole else ("wall_ms", "cpu_ms")
    ours = runs["luthier"]
    rows = []
    for variant, theirs in runs.items():
        times = statistics.median(run[wall] for run in theirs)
        ratios = [their[wall] / our[wall] for their, our in zip(theirs, ours, strict=True)]
        cpus = [their[cpu] / our[cpu] for their, our in zip(theirs, ours, strict=True)]
        shares = [our["memory_mb"] / their["memory_mb"] for their, our in zip(theirs, ours, strict=True)]
        pairs = zip(theirs[0]["losses"], ours[0]["losses"], strict=True)
        apart = max(abs(a - b) / abs(a) for a, b in pairs)
        equal = apart <= TOLERANCE or variant == "trl"  # TRL's defaults are bf16: another precision, said so
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        speed = spread if equal else "losses differ"
        processor = f"{statistics.median(cpus):.2f}" if equal else "–"
        unit = f"{times:.1f} s" if whole else f"{times:.0f} ms"
        size = f"{statistics.median(run['memory_mb'] for run in theirs):.0f} MB"
        rows.append(
            [
                found["cell"],
                NAMES[variant],
                unit,
                speed,
                processor,
                size,
                f"{statistics.median(shares):.2f}",
                f"{apart:.1e}",
            ]
        )
    return rows


def table(rows: list[list[str]]) -> str:
    head = [
        "cell", "", "step (median)", "Luthier is faster by", "in processor time", "peak above model",
        "Luthier's share of it", "losses apart",
    ]  # fmt: skip
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", metavar="CELL", help=", ".join(CELLS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(*given.one)
        return
    import transformers

    path = HERE / "results" / "speed.json"
    kept = {found["cell"]: found for found in json.loads(path.read_text())["cells"]} if path.is_file() else {}
    for cell in given.cells or CELLS:
        kept[cell] = measure(cell, given.rounds, given.threads) | {"load_at_end": os.getloadavg()[0]}
        print(table(rows_of(kept[cell])), flush=True)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    versions["python"] = platform.python_version()
    cells = [kept[cell] for cell in CELLS if cell in kept]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"versions": versions, "cells": cells}, indent=1))
    rows = [row for found in cells for row in rows_of(found)]
    path.with_suffix(".md").write_text(table(rows) + "\n")


if __name__ == "__main__":
    main()
