"""What the starter model can do: exact answers by skill on conversations kept out of training, and functions that pass.

    python starter/measure.py [MODEL]

MODEL is a folder (default: the one that is shipped). Every turn of a held-out conversation is answered greedily, after
the turns before it as they were meant. Writes benchmarks/results/starter.json and its table.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from corpus import write

import luthier

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"
FREE = {"story"}  # any tale will do
TURNS = 600


def open_run(model: str, folder: Path) -> Any:
    """The model as a run: one step at a rate that changes nothing, so that it is asked as any run is."""
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    (folder / "one.jsonl").write_text(json.dumps(rows[0]) + "\n", encoding="utf-8")
    return luthier.tune(
        task="chat", model=model, data=str(folder / "one.jsonl"), method="lora", steps=1, learning_rate=1e-30,
        out=str(folder / "runs"),
    )  # fmt: skip


def answered(run: Any, corpus: Path) -> dict[str, dict[str, float]]:
    asked: list[tuple[str, list[dict[str, str]], str]] = []
    for line in (corpus / "chat-test.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        skills = iter(row["skills"])
        for at, turn in enumerate(row["messages"]):
            if turn["role"] == "assistant" and (skill := next(skills)) not in FREE:
                asked.append((skill, row["messages"][:at], turn["content"]))
    asked = asked[:TURNS]
    began = time.process_time()
    answers = run.predict([messages for _, messages, _ in asked], max_new_tokens=96)
    seconds = time.process_time() - began
    right: dict[str, list[bool]] = defaultdict(list)
    for (skill, _, expected), answer in zip(asked, answers, strict=True):
        right[skill].append(answer["text"] == expected)
        right["all"].append(answer["text"] == expected)
    told = {skill: {"right": sum(some) / len(some), "n": len(some)} for skill, some in sorted(right.items())}
    told["all"]["seconds"] = round(seconds / len(asked), 3)
    return told


def functions(model: str, corpus: Path, folder: Path) -> dict[str, float]:
    run = luthier.tune(
        task="code", model=model, data={"train": str(corpus / "problems.jsonl")}, method="lora", steps=1,
        learning_rate=1e-30, out=str(folder / "runs"), name="code", code={"run_tests": False, "max_new_tokens": 64},
    )  # fmt: skip
    again = luthier.load(run.folder, ["code.run_tests=true"])
    passed = again.evaluate(str(corpus / "problems.jsonl"))["metrics"]["pass@1"]
    return {"right": passed["value"], "n": passed["n"]}


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else "starter:lm"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write(folder / "corpus")
        told = answered(open_run(model, folder), folder / "corpus")
        told["functions that pass (pass@1)"] = functions(model, folder / "corpus", folder)
    RESULTS.joinpath("starter.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    lines = ["# The starter language model\n", "`python starter/measure.py`: answers that are exactly right, greedy.\n"]
    lines += ["| skill | right | turns |", "|---|---|---|"]
    lines += [f"| {skill} | {one['right']:.3f} | {one['n']} |" for skill, one in told.items()]
    RESULTS.joinpath("starter.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
