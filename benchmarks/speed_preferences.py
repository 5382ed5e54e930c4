"""Learning from preferences and rewards, side by side in one run: Luthier and TRL's trainers, time and memory.

    python benchmarks/speed_preferences.py                          # every cell, where `import trl` finds TRL
    python benchmarks/speed_preferences.py dpo --rounds 3 --trl DIR # TRL in a folder of its own, all else as here

Same Llama (4 layers, width 256, vocabulary 16,000, random weights), rows of ragged length, order of rows, batch size,
fp32, AdamW, learning rate and LoRA start; dropout 0, no gradient checkpointing. Each side runs in a process of its own,
in turn. A step is the median after two for warming up; memory is the peak of resident memory above what the loaded
model takes. A cell whose losses differ by more than 1e-4 prints no speed.

| cell | |
|---|---|
| dpo | DPO, the reference read in every step, with the adapter off (TRL's default; `reference: switched`) |
| dpo_before | the same, the reference read before the first step (`reference: before`): its time, and all steps |
| reward | a reward model, scores drawn to a mean of 0 by 0.01 |
| grpo | GRPO with KL to the reference; no answer can end, so both draw as many tokens, not the same: no losses |
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from speed import HERE, TOLERANCE, Memory, common, same_adapter, steps_of, told

VOCABULARY, RATE, BETA, CENTERING, KL = 16_000, 2e-3, 0.1, 0.01, 0.04
CELLS: dict[str, dict[str, Any]] = {
    "dpo": {"batch": 4, "steps": 6, "length": 100},
    "dpo_before": {"batch": 4, "steps": 6, "length": 100, "whole": True},
    "reward": {"batch": 4, "steps": 6, "length": 100},
    "grpo": {"batch": 4, "steps": 5, "length": 60, "group": 4, "new": 32, "sampled": True},
}
SIDES = ("luthier", "trl")
Record = tuple[float, float, float]


# The same model and rows for both -------------------------------------------------------------------------------------


def model_of(kind: str) -> Any:
    """A Llama with random weights from a seed; one that scores for a reward model."""
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True, pad_token_id=0, num_labels=1,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return (LlamaForSequenceClassification if kind == "reward" else LlamaForCausalLM)(config)


def pairs_of(cell: dict[str, Any]) -> list[dict[str, list[int]]]:
    """A prompt and two answers each, of log-normal length; the answers are 30 to 60 % of a sequence."""
    draw = np.random.default_rng(0)

    def ids(length: float) -> list[int]:
        return draw.integers(10, VOCABULARY, max(4, int(length))).tolist()

    pairs = []
    for _ in range(cell["batch"] * cell["steps"]):
        length = float(np.clip(draw.lognormal(np.log(cell["length"]) - 0.18, 0.6), 24, 700))
        share = draw.uniform(0.3, 0.6)
        asked = ids(length * (1 - share))
        pairs.append({"prompt": asked, "chosen": ids(length * share), "rejected": ids(length * share / 1.3)})
    return pairs


def row_of(at: int, pair: dict[str, list[int]], kind: str) -> dict[str, Any]:
    """A pair as one of Luthier's rows."""
    if kind == "grpo":
        asked = pair["prompt"]
        return {"row": at, "input_ids": asked, "prompt": len(asked), "weight": 1.0}
    both = [pair["prompt"] + pair[side] for side in ("chosen", "rejected")]
    row = {"row": at, "input_ids": [*both[0], *both[1]], "weight": 1.0, "margin": None}
    asked, row["lengths"] = len(pair["prompt"]), [len(one) for one in both]
    row["supervised"] = [place >= asked for one in both for place in range(len(one))]
    return row


def worth(ids: list[int]) -> float:
    """The reward of an answer: the share of even ids."""
    return sum(not one % 2 for one in ids) / len(ids)


# Luthier --------------------------------------------------------------------------------------------------------------


def run_luthier(name: str) -> dict[str, Any]:
    from luthier.engine.fit import fit
    from luthier.engine.parallel import Processes
    from luthier.engine.plan import Plan
    from luthier.engine.precision import choose_matmul
    from luthier.evaluate.outputs import Reader
    from luthier.methods import METHODS
    from luthier.models.attention import register
    from luthier.models.backbone import Backbone
    from luthier.models.frozen import Frozen
    from luthier.objectives import OBJECTIVES
    from luthier.objectives.preference import REFERENCE

    register()
    cell, kind = CELLS[name], name.partition("_")[0]
    needs = "sequence_logits" if kind == "reward" else "token_logits"
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=None)
    backbone = Backbone(model_of(kind), tokenizer, "model", "model", needs)
    backbone.choose_layout("on")
    method = METHODS.load("lora")
    module = OBJECTIVES.load("bradley_terry" if kind == "reward" else kind)
    options: dict[str, Any] = {
        "dpo": {"beta": BETA, "reference": "before" if cell.get("whole") else "switched"},
        "reward": {"centering": CENTERING},
        "grpo": {"beta": KL, "group_size": cell.get("group", 2), "max_new_tokens": cell.get("new", 1)},
    }[kind]
    objective = module.Objective(module.Options(**options), backbone, None)
    adaptation = method.adapt(backbone, method.Options())
    same_adapter(backbone.model)
    matmul, _ = choose_matmul("auto", torch.device("cpu"))
    plan = Plan(
        steps=cell["steps"], batch_size=cell["batch"], learning_rate=RATE, schedule="constant", warmup=0,
        weight_decay=0.0, max_grad_norm=1.0, micro_tokens=4096, eval_every=10**9, save_every=10**9, patience=None,
        keep=1, seed=0, metric="loss", higher_is_better=False, precision="fp32", matmul=matmul, recipe_hash="benchmark",
        data_hash="benchmark", final="last",
    )  # fmt: skip
    rows = [row_of(at, pair, kind) for at, pair in enumerate(pairs_of(cell))]
    reader = Reader(backbone, micro_tokens=4096, matmul=matmul)
    records: list[Record] = []
    memory, began, cpu = Memory(), time.perf_counter(), time.process_time()
    if name == "dpo_before":
        made = reader.outputs(objective.reader, rows)
        rows = [row | {REFERENCE: logs_N} for row, logs_N in zip(rows, made, strict=True)]
    elif kind == "dpo":
        objective.reference = Frozen(backbone, "reference", "", base=adaptation.base)

    def emit(record: dict[str, Any]) -> None:
        records.append((record["loss"], time.perf_counter() - began, time.process_time() - cpu))

    source = rollouts(objective, reader, rows, adaptation, emit) if kind == "grpo" else None
    with tempfile.TemporaryDirectory() as folder:
        fit(
            backbone, adaptation, objective, rows, plan, evaluate=None, emit=emit, processes=Processes(),
            folder=Path(folder), source=source,
        )  # fmt: skip
    return told(records, memory)


def rollouts(objective: Any, reader: Any, rows: list[Any], adaptation: Any, emit: Any) -> Any:
    """Answers by the model as it is, their reward, and the reference with the adapter off: as a run makes them."""
    from luthier.engine.parallel import Processes
    from luthier.evaluate.rewards import Rewarded
    from luthier.runs.online.rollouts import Rollouts

    def score(written: list[dict[str, Any]], _: Any) -> list[float]:
        for answer in written:
            assert len(answer["ids"]) == objective.options.max_new_tokens
            answer["rewarded"] = Rewarded(worth(answer["ids"]), {"even": worth(answer["ids"])})
        return [answer["rewarded"].total for answer in written]

    def reference(some: list[Any]) -> list[Any]:
        with adaptation.base():
            return list(reader.outputs(objective.reader, some))

    objective.score = score
    return Rollouts(objective, reader, rows, 0, Processes(), emit, reference)


# TRL ------------------------------------------------------------------------------------------------------------------


def run_trl(name: str) -> dict[str, Any]:
    import peft
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer

    cell, kind = CELLS[name], name.partition("_")[0]
    pairs = pairs_of(cell)
    ordered = [pairs[at] for step in steps_of(cell, pairs) for at in step]
    trainer, config = {
        "dpo": (DPOTrainer, DPOConfig), "reward": (RewardTrainer, RewardConfig), "grpo": (GRPOTrainer, GRPOConfig),
    }[kind]  # fmt: skip
    records: list[Record] = []
    began = cpu = 0.0
    memory: Any = None

    def start() -> None:
        nonlocal memory, began, cpu
        if memory is None:
            memory, began, cpu = Memory(), time.perf_counter(), time.process_time()

    def stamp(loss: float) -> Record:
        return loss, time.perf_counter() - began, time.process_time() - cpu

    class Timed(trainer):  # type: ignore[misc, valid-type]
        """Takes each step's loss and time, in the place where a trainer computes them; rows are tokens already."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, *given: Any) -> Any:
            start()
            return super()._precompute_ref_logps(*given)

        def _get_train_sampler(self, *given: Any) -> Any:
            return super()._get_train_sampler(*given) if kind == "grpo" else SequentialSampler(self.train_dataset)

        def training_step(self, *given: Any, **more: Any) -> Any:
            if records:  # the step before ended where this one begins
                records[-1] = stamp(records[-1][0])
            loss = super().training_step(*given, **more)
            records.append((float(loss), 0.0, 0.0))
            return loss

    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = peft.LoraConfig(
        r=8, lora_alpha=16, target_modules=targets, task_type="SEQ_CLS" if kind == "reward" else "CAUSAL_LM"
    )
    settings = (
        common(cell) | {"bf16": False, "gradient_checkpointing": False, "learning_rate": RATE} | trl_settings(name)
    )
    rewards = {"reward_funcs": even} if kind == "grpo" else {}
    made = Timed(
        model=model_of(kind), args=config(**settings), train_dataset=Dataset.from_list(told_as(ordered, kind)),
        processing_class=words(), peft_config=lora, **rewards,
    )  # fmt: skip
    same_adapter(made.model)
    start()
    made.train()
    records[-1] = stamp(records[-1][0])
    return told(records, memory)


def trl_settings(name: str) -> dict[str, Any]:
    cell = CELLS[name]
    if name == "grpo":
        answers = cell["batch"] * cell["group"]
        return {
            "per_device_train_batch_size": answers, "num_generations": cell["group"], "loss_type": "grpo", "beta": KL,
            "max_completion_length": cell["new"], "shuffle_dataset": False, "temperature": 1.0, "top_k": 0,
            "use_bias_correction_kl": False,
        }  # fmt: skip
    if name == "reward":
        return {"center_rewards_coefficient": CENTERING}
    return {"beta": BETA, "precompute_ref_log_probs": name == "dpo_before"}


def told_as(pairs: list[dict[str, list[int]]], kind: str) -> list[dict[str, Any]]:
    """Pairs in the form that each of TRL's trainers takes; a prompt of GRPO's is a text, a word an id."""
    if kind == "grpo":
        return [{"prompt": " ".join(f"w{one}" for one in pair["prompt"])} for pair in pairs]
    if kind == "reward":
        return [{f"{side}_ids": pair["prompt"] + pair[side] for side in ("chosen", "rejected")} for pair in pairs]
    return [{f"{part}_ids": ids for part, ids in pair.items()} for pair in pairs]


def words() -> Any:
    """A tokenizer of one word an id, whose terminator the model cannot write."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, **{f"w{one}": one for one in range(1, VOCABULARY)}, "<eos>": VOCABULARY}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>")


def even(completion_ids: list[list[int]], **_: Any) -> list[float]:
    assert all(len(ids) == CELLS["grpo"]["new"] for ids in completion_ids)
    return [worth(ids) for ids in completion_ids]


# Side by side ---------------------------------------------------------------------------------------------------------


def measure(name: str, rounds: int, threads: int, trl: str) -> dict[str, Any]:
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    for _ in range(rounds):
        for side in SIDES:
            command = [sys.executable, __file__, "--one", name, side, "--trl", trl]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{name} {side} failed:\n{done.stderr[-3000:]}")
            runs[side].append(json.loads(done.stdout.strip().splitlines()[-1]))
    used = runs["trl"][0]["versions"]
    found = {"cell": name, "threads": threads, "load_at_end": os.getloadavg()[0], "versions": used, "runs": runs}
    for run in (*runs["luthier"], *runs["trl"]):
        del run["versions"]
    return found


def one(name: str, side: str, trl: str) -> None:
    """A side in this process; its figures as the last line of standard output."""
    import transformers

    if trl and side == "trl":
        sys.path.append(trl)  # last, so that torch, transformers and PEFT are the same for both
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    found = run_luthier(name) if side == "luthier" else run_trl(name)
    packages = ("torch", "transformers", "peft", *(["trl"] if side == "trl" else []))
    found["versions"] = {"python": platform.python_version()} | {package: version(package) for package in packages}
    print("\n" + json.dumps(found))


def line(found: dict[str, Any]) -> str:
    cell, (ours, theirs) = CELLS[found["cell"]], (found["runs"][side] for side in SIDES)
    wall, cpu = ("whole_s", "whole_cpu_s") if cell.get("whole") else ("wall_ms", "cpu_ms")
    alike = zip(ours[0]["losses"], theirs[0]["losses"], strict=True)
    apart = max(abs(a - b) / abs(b) for a, b in alike) if not cell.get("sampled") else None

    def ratios(key: str, over: Any, under: Any) -> str:
        found = [a[key] / b[key] for a, b in zip(over, under, strict=True)]
        return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"

    def middle(key: str, runs: Any) -> float:
        return statistics.median(run[key] for run in runs)

    times = [f"{middle(wall, runs):.1f} s" if wall == "whole_s" else f"{middle(wall, runs):.0f} ms"
             for runs in (ours, theirs)]  # fmt: skip
    sizes = [f"{middle('memory_mb', runs):.0f} MB" for runs in (ours, theirs)]
    speeds = [ratios(wall, theirs, ours), ratios(cpu, theirs, ours)]
    if apart is not None and apart > TOLERANCE:
        speeds = ["losses differ"] * 2
    cells = [found["cell"], *times, *speeds, *sizes, ratios("memory_mb", ours, theirs)]
    return "| " + " | ".join([*cells, "not compared" if apart is None else f"{apart:.1e}", str(len(ours))]) + " |"


def table(cells: list[dict[str, Any]]) -> str:
    head = [
        "cell", "Luthier", "TRL", "Luthier is faster by", "in processor time", "peak above model, Luthier", "TRL",
        "Luthier's share of it", "losses apart", "rounds",
    ]  # fmt: skip
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *map(line, cells)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", metavar="CELL", help=", ".join(CELLS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trl", default="", help="a folder in which `import trl` finds TRL, if none is installed")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(*given.one, given.trl)
        return
    path = HERE / "results" / "speed_preferences.json"
    kept = {one["cell"]: one for one in json.loads(path.read_text())} if path.is_file() else {}
    for name in given.cells or CELLS:
        kept[name] = measure(name, given.rounds, given.threads, given.trl)
        print(table([kept[name]]), flush=True)
        cells = [kept[cell] for cell in CELLS if cell in kept]
        path.write_text(json.dumps(cells, indent=1) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(table(cells) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
