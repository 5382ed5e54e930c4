"""Progress in the terminal: a live bar where there is one, plain lines where there is none."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from luthier.reports.figures import count, decimals, duration, label, plain, span
from luthier.reports.folder import Record
from luthier.reports.teacher import sentence

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.progress import Progress, TaskID

    from luthier.types import Finding

SEVERITIES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
ALIKE = 10  # findings of one code that are spelled out
LINE_EVERY_S = 60.0  # of the run's own time: a plain line appears at each tenth of the steps, and at least this often


def trainable_line(trainable: int, total: int) -> str:
    """The line that PEFT prints: ``trainable params: 294,912 || all params: 124,734,720 || trainable%: 0.2364``."""
    percent = 100 * trainable / total if total else 0.0
    return f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {percent:.4f}"


class Console:
    """What a run says while it goes on. Also a context manager: leaving it stops the live bar.

    ``quiet`` prints nothing: the answer is read by a program, and the run folder holds the rest. What is printed to a
    file or a pipe depends on the records alone, never on the clock.
    """

    def __init__(self, quiet: bool = False, stream: TextIO | None = None):
        self.quiet, self.stream = quiet, stream or sys.stdout
        live = self.stream.isatty() and not quiet and os.environ.get("TERM") != "dumb"
        self._rich: RichConsole | None = _rich_console(self.stream) if live else None
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._total = 0
        self._first: tuple[int, float] | None = None
        self._printed: tuple[int, float] = (0, 0.0)

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def recipe(self, rows: list[tuple[str, Any, str]]) -> None:
        """The resolved recipe: key, value, and where the value came from."""
        if not rows:
            return
        wide, high = (max(len(str(row[at])) for row in rows) for at in (0, 1))
        for key, value, origin in rows:
            shown = str(value).replace("\n", "\\n")
            self._say(f"{key:<{wide}}  {shown:<{min(high, 40)}}  ", rest=origin, rest_style="dim")

    def findings(self, findings: list[Finding]) -> None:
        """All findings, errors first, each with where, what, why and how to mend it."""
        for severity, style in SEVERITIES.items():
            members = [finding for finding in findings if finding.severity == severity]
            if members:
                self._say(f"{severity}s ({len(members)})", style)
            for finding in _first_of_each(members):
                self._say(f"  {finding.where}: {finding.what}", rest=f"  [{finding.code}]", rest_style="dim")
                for word, text in (("why", finding.why), ("mend", finding.mend)):
                    if text:
                        self._say(f"      {word}: {text}")
            for code, more in _beyond(members).items():
                self._say(
                    f"  and {count(more)} more like that (all of them with --json)",
                    rest=f"  [{code}]",
                    rest_style="dim",
                )

    def rows(self, shown: list[dict[str, Any]]) -> None:
        """Rows as the model sees them: ``{source, tokens, runs: [(text, supervised)], target}``.

        The supervised part is green on a terminal and stands in ⟦ ⟧ everywhere, so that it shows without colour.
        """
        for row in shown:
            target = f", target {row['target']}" if row.get("target") is not None else ""
            self._say(f"{row['source']}: {count(row['tokens'])} tokens{target}", "bold")
            parts = [(f"⟦{text}⟧", "green") if supervised else (text, "") for text, supervised in row["runs"]]
            self._print([("  ", ""), *parts])

    def note(self, text: str) -> None:
        self._say(text)

    def start(self, total_steps: int, resumed_from: int | None = None) -> None:
        """``resumed_from`` where it is known; an event "resumed" says it later."""
        self._total, self._printed, self._first = total_steps, (0, 0.0), (0, 0.0)
        if self._rich:
            self._progress = _progress(self._rich)
            self._task = self._progress.add_task("training", total=total_steps, text="")
            self._progress.start()
        if resumed_from:
            self._say(f"going on from step {count(resumed_from)} of {count(total_steps)}")
            self._go_on(resumed_from)

    def _go_on(self, step: int) -> None:
        """Time left is then reckoned from the first record that comes."""
        self._printed, self._first = (step, 0.0), None
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=step)

    def step(self, record: Record) -> None:
        """One training record: moves the bar, or prints a line at each tenth of the steps."""
        text, now = self._line(record), (record["step"], record.get("seconds") or 0.0)
        self._first = self._first or now
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=record["step"], text=text)
        elif self._due(now):
            self._printed = now
            self._say(f"step {count(record['step'])}/{count(self._total)}  {text}")

    def evaluation(self, record: Record) -> None:
        named = [(key, value) for key, value in record.items() if key not in ("step", "kind", "seconds")]
        values = "  ".join(f"{label(key)} {plain(value)}" for key, value in named)
        self._say(f"evaluation at step {count(record['step'])}  {values}", "bold")

    def event(self, record: Record) -> None:
        at = f" at step {count(record['step'])}" if "step" in record else ""
        self._say(f"{record.get('event', 'event')}{at}: {record.get('text', '')}", "yellow")
        if record.get("event") == "resumed":
            self._go_on(int(record.get("resumed_step", 0)))

    def finish(self, result: Record, folder: Path) -> None:
        """The metric before and after, the trainable share, and where the run folder is."""
        self.close()
        summary = before_after_line(result)
        if summary:
            self._say(summary, "bold")
        if result.get("teacher") and result.get("after"):
            self._say(sentence(result))
        if result.get("parameters"):
            self._say(trainable_line(result.get("trainable") or 0, result["parameters"]))
        self._say(f"run folder: {folder}")

    def close(self) -> None:
        if self._progress:
            self._progress.stop()
            self._progress = None

    def _due(self, now: tuple[int, float]) -> bool:
        (step, seconds), (last_step, last_seconds) = now, self._printed
        tenth = max(1, self._total) / 10
        return step // tenth > last_step // tenth or step >= self._total or seconds - last_seconds >= LINE_EVERY_S

    def _line(self, record: Record) -> str:
        """ "loss 0.61  80 rows/s  1,900 tokens/s  900 MB  0:12, 1:48 left"."""
        loss = record.get("loss")
        parts = [f"loss {loss:.4f}" if loss is not None else "loss not a number"]
        if record.get("reward") is not None:
            parts.insert(0, f"reward {record['reward']:.3f}")
        for key, unit in (("rows_per_s", "rows/s"), ("tokens_per_s", "tokens/s"), ("memory_mb", "MB")):
            if record.get(key) is not None:
                parts.append(f"{count(record[key])} {unit}")
        if record.get("seconds") is not None:
            parts.append(duration(record["seconds"]) + self._left(record))
        return "  ".join(parts)

    def _left(self, record: Record) -> str:
        if self._first is None or record["step"] <= self._first[0]:
            return ""
        pace = (record["seconds"] - self._first[1]) / (record["step"] - self._first[0])
        return f", {duration(pace * max(0, self._total - record['step']))} left"

    def _say(self, text: str, style: str = "", rest: str = "", rest_style: str = "") -> None:
        self._print([(text, style), (rest, rest_style)])

    def _print(self, parts: list[tuple[str, str]]) -> None:
        """Words with their styles. They are never read as markup: rows and paths may hold brackets."""
        if self.quiet:
            return
        if self._rich is None:
            text = "".join(words for words, _ in parts)
            print(_writable(text.rstrip(), self.stream), file=self.stream, flush=True)
            return
        from rich.text import Text

        self._rich.print(Text.assemble(*parts), soft_wrap=True)


def _first_of_each(findings: list[Finding]) -> list[Finding]:
    """At most ``ALIKE`` findings of each code."""
    seen: Counter[str] = Counter()
    shown = []
    for finding in findings:
        seen[finding.code] += 1
        if seen[finding.code] <= ALIKE:
            shown.append(finding)
    return shown


def _beyond(findings: list[Finding]) -> dict[str, int]:
    """How many of each code are not shown."""
    return {code: n - ALIKE for code, n in Counter(finding.code for finding in findings).items() if n > ALIKE}


def before_after_line(result: Record) -> str:
    """ "accuracy 0.51 (0.45 to 0.57) → 0.87 (0.82 to 0.91), over 240"; "" where nothing was measured after."""
    name = result.get("metric")
    before, after = ((result.get(when) or {}).get(name) for when in ("before", "after"))
    if not after or after.get("value") is None:
        return ""
    before = before if before and before.get("value") is not None else None
    places = decimals(before, after)
    shown = [_with_interval(metric, places) for metric in (before, after) if metric]
    over = f", over {count(after['n'])}" if after.get("n") else ""
    return f"{label(str(name))} {' → '.join(shown)}{over}"


def _with_interval(metric: Record, places: int) -> str:
    ends = span(metric, places)
    return f"{metric['value']:.{places}f}" + (f" ({ends})" if ends else "")


def _writable(text: str, stream: TextIO) -> str:
    """The text with "?" for what the stream's encoding lacks: an arrow must not end a run."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def _rich_console(stream: TextIO) -> RichConsole:
    from rich.console import Console as RichConsole

    return RichConsole(file=stream, highlight=False)


def _progress(console: RichConsole) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    words = TextColumn("{task.fields[text]}", markup=False)
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), words, console=console)
