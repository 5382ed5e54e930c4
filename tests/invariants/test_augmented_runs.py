"""A run whose pictures are varied, stopped and gone on with: the bytes of the run that nothing stopped."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from commands import Forks
from helpers import assert_close, final_sha256, wait_for, write_recipe
from safetensors.torch import load_file

import tiny

STEPS = 24


def make(folder: Path, **keys: Any) -> Path:
    rows = []
    for i in range(10):
        tiny.save_picture(folder / f"{i}.png", ("red", "green")[i % 2], seed=i)
        rows.append({"image": f"{i}.png", "label": ("red", "green")[i % 2]})
    model = tiny.save_image_model("vit", folder / "vit")
    data = {"train": tiny.write_jsonl(folder / "rows.jsonl", rows), "eval": 0.0}
    write_recipe(
        folder, task="classify", model=model, data=data, steps=STEPS, batch_size=4, save_every=4, learning_rate=1e-3,
        method="full", name="run", augment={"crop": 0.4, "flip": 0.5, "colour": 0.3}, **keys,
    )  # fmt: skip
    return folder / "runs" / "run"


def test_a_stopped_run_goes_on_to_the_same_bytes_whatever_its_micro_batches(forks: Forks, tmp_path: Path) -> None:
    whole, stopped, small = (make(tmp_path / name) for name in ("whole", "stopped", "small"))
    command = forks.start(whole.parents[1], "tune", "recipe.yaml")
    assert command.end() == 0, command.output
    command = forks.start(stopped.parents[1], "tune", "recipe.yaml")
    wait_for(6, command, stopped)
    command.send(signal.SIGTERM)
    command.end()
    command = forks.start(stopped.parents[1], "tune", "recipe.yaml")
    assert command.end() == 0, command.output
    assert final_sha256(stopped) == final_sha256(whole)
    command = forks.start(small.parents[1], "tune", "recipe.yaml", "micro_tokens=16")
    assert command.end() == 0, command.output
    found, wanted = (load_file(run / "final" / "model.safetensors") for run in (small, whole))
    assert_close(found, wanted, 1e-4, but=("key.bias",))  # without a gradient but for rounding
