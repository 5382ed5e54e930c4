"""Promise 1, over processes: two give the weights of one, and write each file once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import Forks
from helpers import (
    asked_rows,
    assert_close,
    chat_rows,
    classify_rows,
    final_sha256,
    no_dropout,
    preference_rows,
    records,
    train_steps,
    write_recipe,
)
from safetensors.torch import load_file

import tiny

HERE = Path(__file__).parent
STEPS = 8
# Model, task and keys. 13 rows in batches of 4: the last step of an epoch has one row, so one process has none.
RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "classify, full": ("bert", "classify", {"method": "full"}),
    "classify, head": ("bert", "classify", {"method": "freeze"}),
    "chat, lora": ("llama", "chat", {"method": "lora", "lora": {"rank": 4}}),
    "chat, taught": ("llama", "chat", {"method": "lora", "distill": {}}),
    "prefer, dpo": ("llama", "prefer", {"method": "lora", "lora": {"rank": 4}}),
    "prefer, kto": ("llama", "prefer", {"method": "lora", "lora": {"rank": 4}, "objective": "kto"}),
    "reward": ("llama", "reward", {"method": "lora", "lora": {"rank": 4}}),
    "match, full": ("clip", "match", {"method": "full", "augment": {"crop": 0.5, "flip": 0.5}}),
    "pictures, each batch's own statistics": ("resnet", "classify", {"method": "full", "batch_norm": "batch"}),
    "reinforce": (
        "llama",
        "reinforce",
        {
            "method": "lora",
            "lora": {"rank": 4},
            "reinforce": {"rewards": [{"format": ".*[a-g].*"}]},
            "grpo": {"group_size": 4, "max_new_tokens": 6, "generation_batch": 6, "iterations": 2},
        },
    ),
    "reinforce, ppo": (
        "llama",
        "reinforce",
        {
            "method": "lora",
            "lora": {"rank": 4},
            "reinforce": {"rewards": [{"format": ".*[a-g].*"}]},
            "ppo": {"max_new_tokens": 6, "generation_batch": 2, "epochs": 2, "minibatches": 2, "kl_target": 0.1},
        },
    ),
    "stopped": ("llama", "chat", {"method": "lora", "lora": {"rank": 4}}),
}
ROWS = {"classify": classify_rows, "prefer": preference_rows, "reward": preference_rows, "reinforce": asked_rows}
ROWS["match"] = classify_rows
SINGLE = {kind: kind for kind in RUNS} | {"stopped": "chat, lora"}
NO_GRADIENT = ("key.bias", "k_proj.bias")  # see test_gradient


def make(folder: Path, kind: str, tiny_folder: Any) -> Path:
    model, task, keys = RUNS[kind]
    keys = keys | ({"distill": {"teacher": tiny_folder(model, seed=1)}} if "distill" in keys else {})
    rows = ROWS.get(task, chat_rows)(19, weighted=True)
    folder.mkdir(parents=True)
    shown = {"clip": tiny.save_dual_model, "resnet": tiny.save_image_model}
    if model in shown:
        for i, row in enumerate(rows):
            tiny.save_picture(folder / f"{i}.png", ("red", "green", "blue")[i % 3], seed=i)
            told = {"caption": row["text"]} if task == "match" else {"label": row["label"]}
            rows[i] = {"image": f"{i}.png", "weight": row["weight"]} | told
    path = shown[model](model, folder / "model") if model in shown else tiny_folder(model, **no_dropout(model))
    data = {"train": tiny.write_jsonl(folder / "train.jsonl", rows[:13])}
    data["eval"] = tiny.write_jsonl(folder / "eval.jsonl", rows[13:])
    write_recipe(folder, task=task, model=path, data=data, steps=STEPS, batch_size=4,
                 save_every=2, eval_every=4, learning_rate=1e-4, final="last", name="run", **keys)  # fmt: skip
    return folder / "runs" / "run"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def launch(launcher: list[str], folders: list[Path]) -> None:
    command = [sys.executable, "-m", *launcher, str(HERE / "processes_child.py"), *map(str, folders)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def alone(forks: Forks, tiny_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("alone")
    runs = {kind: make(base / kind, kind, tiny_folder) for kind in set(SINGLE.values())}
    for run in runs.values():
        command = forks.start(run.parents[1], "tune", "recipe.yaml")
        assert command.end() == 0, command.output
    return runs


@pytest.fixture(scope="module")
def together(tiny_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("together")
    runs = {kind: make(base / kind, kind, tiny_folder) for kind in RUNS}
    torchrun = ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())]
    launch(torchrun, [run.parents[1] for run in runs.values()])
    return runs


def assert_same_run(found: Path, expected: Path) -> None:
    for path in (expected / "final").glob("*.safetensors"):
        weights, wanted = load_file(found / "final" / path.name), load_file(path)
        assert_close(weights, wanted, 1e-6, but=NO_GRADIENT)
    told, wanted_told = ([r for r in records(run) if r["kind"] != "event"] for run in (found, expected))
    assert [(r["kind"], r["step"]) for r in told] == [(r["kind"], r["step"]) for r in wanted_told]
    for record, wanted_record in zip(told, wanted_told, strict=True):
        for key in ("loss", "grad_norm", "learning_rate", "tokens", "rows", "divergence", "cross_entropy"):
            if key in wanted_record:
                assert record[key] == pytest.approx(wanted_record[key], rel=1e-5, abs=2e-7), key


@pytest.mark.parametrize("kind", RUNS)
def test_two_processes_give_the_weights_of_one(kind: str, alone: dict[str, Path], together: dict[str, Path]) -> None:
    assert_same_run(together[kind], alone[SINGLE[kind]])


@pytest.mark.parametrize("kind", RUNS)
def test_the_run_folder_is_written_once(kind: str, alone: dict[str, Path], together: dict[str, Path]) -> None:
    run = together[kind]
    assert train_steps(run) == list(range(1, STEPS + 1))
    assert [path.name for path in run.parent.iterdir() if not path.name.startswith(".")] == ["run"]
    files, wanted = (
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        for folder in (run, alone[SINGLE[kind]])
    )
    assert files == wanted


def test_a_signal_to_one_process_stops_both_and_both_go_on(together: dict[str, Path]) -> None:
    """The weights are those of the two processes that nothing stopped, bit for bit."""
    assert [record["event"] for record in records(together["stopped"]) if record["kind"] == "event"] == ["resumed"]
    assert "resumed after step 3" in (together["stopped"] / "metrics.jsonl").read_text()
    assert final_sha256(together["stopped"]) == final_sha256(together["chat, lora"])


@pytest.mark.slow
def test_accelerate_launch_gives_them_too(alone: dict[str, Path], tiny_folder: Any, tmp_path: Path) -> None:
    runs = {kind: make(tmp_path / kind, kind, tiny_folder) for kind in RUNS}
    port = ["--main_process_port", str(free_port())]
    plain = ["--cpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    accelerate = ["accelerate.commands.launch", "--num_processes", "2", *plain, *port]
    launch(accelerate, [run.parents[1] for run in runs.values()])
    for kind, run in runs.items():
        assert_same_run(run, alone[SINGLE[kind]])
