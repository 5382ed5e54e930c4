"""Retrieval with the starter encoder, before and after tuning, beside sentence-transformers: same rows and settings.

    python benchmarks/language_retrieve.py --peer PYTHON     # PYTHON: an environment with sentence-transformers
    python benchmarks/language_retrieve.py --peer PYTHON --part memory

XQuAD: a question and the paragraph that answers it, split by article (24 to train on, 12 to test). PubMedQA: a
question and each section of its abstract (350 questions to train on, 150 to test). The corpus of a test is every
paragraph of its test rows. InfoNCE with in-batch negatives, scale 20, `full`, batch 32, learning rate 5e-5, linear with
warm-up, AdamW, rows cut at 192 tokens, one epoch; one seed, one thread, fp32, each side in its own process, one after
the other. The peer's metrics are its own InformationRetrievalEvaluator's. What differs: the order of rows,
and that a paragraph which stands twice in a batch is a negative of its own question there and not here. `memory` trains
three steps of 128 rows with and without gradient caching. `passages` counts test questions for which none of 1 or 3
passages of an index of the test paragraphs (`data.index`) lies in the right one, with the encoder as it came and with
the run of `score`.

Writes results/language_retrieve.json: `seconds` is the wall time of the training alone, `cpu_seconds` user and system
time of the whole process, evaluations before and after among it. What `memory` measures stands under "memory".
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "shared" / "data"
WORK = Path(os.environ.get("LUTHIER_BENCH", HERE / "results" / "language_retrieve_runs"))
OUT = HERE / "results" / "language_retrieve.json"
RATE, BATCH, LENGTH, EPOCHS = 5e-5, 32, 192, 1
METRICS = ("recall@1", "recall@10", "mrr@10", "ndcg@10")
MEMORY = {"batch": 128, "steps": 3, "at_a_time": 2048}


def rows(name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    folder = {"xquad": "xquad_en", "pubmedqa": "pubmedqa"}[name]
    with gzip.open(DATA / folder / "qa.jsonl.gz", "rt", encoding="utf-8") as file:
        read = [json.loads(line) for line in file]
    sides: tuple[list[Any], list[Any]] = ([], [])
    articles = sorted({row["article"] for row in read}) if name == "xquad" else []
    for at, row in enumerate(read):
        test = row["article"] in articles[24:] if name == "xquad" else at >= 350
        told = [row["context"]] if name == "xquad" else row["contexts"]
        sides[test].extend({"query": row["question"], "positive": text} for text in told)
    return sides


def write(name: str) -> dict[str, str]:
    files = {}
    for side, told in zip(("train", "eval"), rows(name), strict=True):
        path = WORK / "data" / f"{name}-{side}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in told), encoding="utf-8")
        files[side] = str(path)
    return files


def luthier_side(name: str, memory: str) -> dict[str, Any]:
    import luthier

    keys: dict[str, Any] = {"epochs": EPOCHS, "batch_size": BATCH, "eval_every": 10**6, "final": "last"}
    if memory:
        keys = {"steps": MEMORY["steps"], "batch_size": MEMORY["batch"], "eval_every": 10**6, "final": "last"}
        keys["micro_tokens"] = MEMORY["at_a_time"] if memory == "cached" else 10**9
    shutil.rmtree(WORK / f"{name}-{memory or 'tuned'}", ignore_errors=True)  # a run that goes on would cost less
    data = {**write(name), "on_leak": "drop"} if not memory else {"train": write(name)["train"], "eval": 0.0}
    run = luthier.tune(
        task="retrieve", model="starter:minilm", data=data, method="full", learning_rate=RATE, max_length=LENGTH,
        out=str(WORK), name=f"{name}-{memory or 'tuned'}", **keys,
    )  # fmt: skip
    result = run.result
    told: dict[str, Any] = {
        "seconds": result["seconds"],
        "steps": result["steps"],
        "memory_mb": result["peak_memory_mb"],
    }
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    told["losses"] = [round(record["loss"], 4) for record in records if record["kind"] == "train"]
    if not memory:
        told["before"], told["score"] = ({m: result[when][m]["value"] for m in METRICS} for when in ("before", "after"))
        told["intervals"] = {m: [result["after"][m]["low"], result["after"][m]["high"]] for m in METRICS}
    return told


def passages_missed(name: str) -> list[dict[str, Any]]:
    from luthier.runs.finding.passages import Passages
    from luthier.runs.finding.search import index
    from luthier.types import INLINE

    corpus, found = WORK / "data" / f"{name}-corpus.jsonl", []
    told = dict.fromkeys(row["positive"] for row in rows(name)[1])
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in told), encoding="utf-8")
    asked: dict[str, list[str]] = {}
    for row in rows(name)[1]:
        asked.setdefault(row["query"], []).append(row["positive"])
    questions = [(INLINE, {"question": query, "contexts": texts}) for query, texts in asked.items()]
    for encoder, model in (("frozen", "starter:minilm"), ("tuned", str(WORK / f"{name}-tuned"))):
        folder = WORK / f"index-{name}-{encoder}"
        built = index(model, str(corpus), str(folder), tokens=150)
        for k in (1, 3):
            passages = Passages(folder, k, {"question": "question", "context": "context"})
            passages.into_rows(questions)
            found.append({"data": name, "encoder": encoder, "k": k, "passages": built["entries"], **passages.told})
    return found


def peer_side(name: str, memory: str) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MultipleNegativesRankingLoss,
    )

    from luthier.models.locate import locate

    torch.set_num_threads(1)
    model = SentenceTransformer(locate("starter:minilm", Path("."))[0], device="cpu")
    model.max_seq_length = LENGTH
    train, test = rows(name)
    loss = MultipleNegativesRankingLoss(model)
    if memory == "cached":
        loss = CachedMultipleNegativesRankingLoss(model, mini_batch_size=16)
    amount = {"max_steps": MEMORY["steps"]} if memory else {"num_train_epochs": EPOCHS}
    batch = MEMORY["batch"] if memory else BATCH
    arguments = Arguments(
        str(WORK / f"peer-{name}"), per_device_train_batch_size=batch, learning_rate=RATE, warmup_steps=0.06,
        lr_scheduler_type="linear", weight_decay=0.01, seed=0, use_cpu=True, report_to=[], save_strategy="no",
        disable_tqdm=True, logging_strategy="no", **amount,
    )  # fmt: skip
    told: dict[str, Any] = {} if memory else {"before": peer_score(model, test)}
    data = Dataset.from_list([{"anchor": row["query"], "positive": row["positive"]} for row in train])
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=data, loss=loss)
    began = time.monotonic()
    done = trainer.train()
    told |= {"seconds": round(time.monotonic() - began, 2), "steps": done.global_step}
    told["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    told["loss"] = done.training_loss
    return told if memory else told | {"score": peer_score(model, test)}


def peer_score(model: Any, test: list[dict[str, Any]]) -> dict[str, float]:
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    corpus = {text: f"p{i}" for i, text in enumerate(dict.fromkeys(row["positive"] for row in test))}
    queries = {text: f"q{i}" for i, text in enumerate(dict.fromkeys(row["query"] for row in test))}
    relevant: dict[str, set[str]] = {}
    for row in test:
        relevant.setdefault(queries[row["query"]], set()).add(corpus[row["positive"]])
    evaluator = InformationRetrievalEvaluator(
        {key: text for text, key in queries.items()}, {key: text for text, key in corpus.items()}, relevant,
        precision_recall_at_k=[1, 10], mrr_at_k=[10], ndcg_at_k=[10], accuracy_at_k=[1], map_at_k=[10],
    )  # fmt: skip
    found = evaluator(model)
    return {metric: float(found[f"cosine_{metric}"]) for metric in METRICS}


def measured(side: str, name: str, memory: str, python: str) -> dict[str, Any]:
    command = [python, str(Path(__file__).resolve()), "--side", side, "--name", name, "--memory", memory]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="the Python of an environment with sentence-transformers and Luthier")
    parser.add_argument("--part", choices=("score", "memory", "both", "passages"), default="both")
    parser.add_argument("--side", choices=("luthier", "sentence-transformers"))
    parser.add_argument("--name", default="xquad")
    parser.add_argument("--memory", default="")
    given = parser.parse_args()
    if given.side:
        told = (luthier_side if given.side == "luthier" else peer_side)(given.name, given.memory)
        print(json.dumps(told | {"cpu_seconds": round(os.times().user + os.times().system, 1)}))
        return
    jobs = [(name, "") for name in ("xquad", "pubmedqa")] if given.part in ("score", "both") else []
    jobs += [("xquad", "cached"), ("xquad", "whole")] if given.part in ("memory", "both") else []
    found = json.loads(OUT.read_text(encoding="utf-8")) if OUT.is_file() else {"made": {}, "rows": [], "memory": []}
    names = ("luthier", "torch", "transformers", *(("sentence-transformers",) if given.peer else ()))
    ask = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names!r}}}))"
    found["made"] = json.loads(subprocess.run([given.peer or sys.executable, "-c", ask], capture_output=True).stdout)
    if given.part == "passages":
        jobs, found["passages"] = [], [one for name in ("xquad", "pubmedqa") for one in passages_missed(name)]
        OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name, memory in jobs:
        sizes = {"train_rows": len(rows(name)[0]), "test_rows": 0 if memory else len(rows(name)[1])}
        for side, python in (("luthier", sys.executable), ("sentence-transformers", given.peer)):
            if python is None:
                continue
            told = {
                "task": "retrieve",
                "data": name,
                "model": "starter:minilm",
                "method": "full",
                "side": side,
                "seed": 0,
            }
            told |= {"part": memory or "score", **sizes, **measured(side, name, memory, python)}
            key, table = ("data", "side", "part"), "memory" if memory else "rows"
            found[table] = [row for row in found[table] if [row[k] for k in key] != [told[k] for k in key]] + [told]
            OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print({k: v for k, v in told.items() if k not in ("losses",)}, flush=True)


if __name__ == "__main__":
    assert version("luthier")
    main()
