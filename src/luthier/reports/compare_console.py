"""A comparison in the terminal: a line for each cell as it goes, then a table and what to take."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, TextIO

from luthier.reports.figures import compact, count, decimals, duration, label

HEAD = ("method", "score", "95 % interval", "seeds", "rate", "trained", "time", "memory", "saved", "inference")


class Progress:
    """``quiet`` prints nothing: the answer is read by a program."""

    def __init__(self, quiet: bool = False, stream: TextIO | None = None):
        self.quiet, self.stream = quiet, stream or sys.stdout

    def begin(self, about: dict[str, Any], folder: Path) -> None:
        rows = about["rows"]
        chosen = f", {count(rows['selection'])} to choose on" if rows["selection"] else ""
        self._say(f"{count(rows['train'])} rows to train{chosen}, {count(rows['evaluation'])} to compare on; {folder}")
        for finding in about["findings"]:
            mend = f" ({finding['mend']})" if finding["mend"] else ""
            self._say(f"{finding['severity']}: {finding['where']}: {finding['what']}{mend} [{finding['code']}]")

    def starts(self, text: str) -> None:
        self._say(f"{text} ...")

    def kept(self, name: str, seed: int, told: dict[str, Any]) -> None:
        self._say(f"{name}, seed {seed}: done before, {_outcome(told)}")

    def ended(self, told: dict[str, Any]) -> None:
        self._say(f"    {_outcome(told)}")

    def finish(self, result: dict[str, Any], folder: Path) -> None:
        self._say("")
        for line in table(result):
            self._say(line)
        self._say("")
        if result["recommended"]:
            self._say(f"take {result['recommended']}")
        for reason in result["reasons"]:
            self._say(f"  {reason}")
        self._say(f"page: {folder / 'compare.html'}")

    def _say(self, text: str) -> None:
        if not self.quiet:
            encoding = self.stream.encoding or "utf-8"
            print(text.encode(encoding, "replace").decode(encoding), file=self.stream, flush=True)


def _outcome(told: dict[str, Any]) -> str:
    if told["status"] != "finished":
        errors = [finding["what"] for finding in told.get("findings", []) if finding["severity"] == "error"]
        return f"{told['status']}: {told.get('reason') or '; '.join(errors[:2])}"
    if told.get("score") is not None:
        return f"{label(told['metric'])} {told['score']:.4f}, {duration(told['wall_seconds'])}"
    values = [value for value in told["chosen_on"] if value is not None]
    rate = f"rate {told['learning_rate']:g}, " if told["learning_rate"] else ""
    best = f"{max(values) if told['higher_is_better'] else min(values):.4f}" if values else "no value"
    return f"{rate}{label(told['metric'])} on the selection rows {best}, {duration(told['wall_seconds'])}"


def table(result: dict[str, Any]) -> list[str]:
    """The methods, best first, those without a score last with their reason."""
    methods = ordered(result)
    places = max(3, decimals(*(method.get("score") for method in methods)))
    rows = [HEAD, *(_row(method, places, result) for method in methods if "score" in method)]
    wide = [max(len(row[at]) for row in rows) for at in range(len(HEAD))]
    lines = [
        "  ".join(cell.ljust(wide[at]) if at == 0 else cell.rjust(wide[at]) for at, cell in enumerate(row)).rstrip()
        for row in rows
    ]
    missing = [f"{m['name']}: {m['status']}: {m['reason']}" for m in methods if "score" not in m]
    return [*lines, *missing]


def ordered(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Best score first; without one, last, as they were named."""
    sign = -1 if result.get("higher_is_better") else 1
    return sorted(
        result["methods"], key=lambda m: ("score" not in m, sign * m["score"]["value"] if "score" in m else 0)
    )


def _row(method: dict[str, Any], places: int, result: dict[str, Any]) -> tuple[str, ...]:
    score = method["score"]
    mark = "*" if method["name"] == result["recommended"] else " "
    spread = f"{score['min']:.{places}f} to {score['max']:.{places}f}" if len(score["seeds"]) > 1 else "1"
    return (
        mark + method["name"],
        f"{score['value']:.{places}f}",
        f"{score['low']:.{places}f} to {score['high']:.{places}f}",
        spread,
        f"{method['learning_rate']:g}" if method["learning_rate"] else "–",
        compact(method["trainable"]),
        duration(method["seconds"]),
        f"{count(method['peak_memory_mb'])} MB",
        f"{method['weights_mb']:.3g} MB",
        f"×{method['inference']:.2f}",
    )
