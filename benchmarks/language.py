"""The language tasks beside the usual libraries, in one table: score and processor time of each side.

    python benchmarks/language.py            # writes results/language.md from results/language_*.json

Each task has a script of its own, ``language_<task>.py``, which runs both sides on the same rows, in processes of their
own with one thread, and keeps what it measured as ``results/language_<task>.json``. What is compared is processor time
(user and system), which other work on the machine disturbs least.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
KEY = ("task", "data", "model", "method", "rate", "train_rows", "test_rows", "steps")
HEAD = [
    "task",
    "data",
    "model",
    "method",
    "rate",
    "rows (train / test)",
    "steps",
    "side",
    "seeds",
    "score",
    "processor s",
    "beside",
]


def collected() -> dict[tuple[Any, ...], dict[str, list[dict[str, Any]]]]:
    """What was measured, by what was done and by side; Luthier's side first."""
    groups: dict[tuple[Any, ...], dict[str, list[dict[str, Any]]]] = {}
    for path in sorted(RESULTS.glob("language_*.json")):
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            sides = groups.setdefault(tuple(row.get(key) for key in KEY), {})
            sides.setdefault(row["side"], []).append(row)
    return {key: dict(sorted(sides.items(), key=lambda one: one[0] != "luthier")) for key, sides in groups.items()}


def score(rows: list[dict[str, Any]]) -> str:
    """Means over the seeds, with the spread where there are several."""
    told = []
    for name in rows[0]["score"]:
        values = [row["score"][name] for row in rows if row["score"].get(name) is not None]
        if values:
            spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
            told.append(f"{name} {statistics.fmean(values):.3f}{spread}")
    return ", ".join(told)


def table() -> str:
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    for (task, data, model, method, rate, train, test, steps), sides in collected().items():
        times = {side: statistics.fmean(row["cpu_seconds"] for row in rows) for side, rows in sides.items()}
        for side, rows in sides.items():
            beside = f"{times[side] / times['luthier']:.2f}×" if side != "luthier" and "luthier" in times else ""
            cells = [
                task,
                data,
                model,
                method,
                rate or "",
                f"{train} / {test}",
                steps,
                side,
                len(rows),
                score(rows),
                f"{times[side]:.0f}",
                beside,
            ]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    about = "Written by `benchmarks/language.py`; one thread. `beside`: the other side's processor time over Luthier's."
    text = f"# Language tasks beside the usual libraries\n\n{about}\n\n{table()}\n"
    (RESULTS / "language.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
