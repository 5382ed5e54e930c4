"""Real rows as the model will see them, the supervised part marked."""

from __future__ import annotations

from typing import Any

SHOWN = 3


def marked_rows(prepared: Any) -> list[dict[str, Any]]:
    """A few training rows: place, runs of (text, supervised), and the target of a row that has one."""
    shown = []
    for features in prepared.train.rows[:SHOWN]:
        source = str(prepared.train.examples[features["row"]].source)
        runs = _runs(prepared.backbone.tokenizer, features)
        target = prepared.task.shown(prepared.train.examples[features["row"]])[1] if "target" in features else None
        shown.append({"source": source, "tokens": len(features["input_ids"]), "runs": runs, "target": target})
    return shown


def _runs(tokenizer: Any, features: Any) -> list[tuple[str, bool]]:
    ids = features["input_ids"]
    taught = features.get("supervised", [False] * len(ids))
    runs: list[tuple[str, bool]] = []
    start = 0
    for at in range(1, len(ids) + 1):
        if at == len(ids) or taught[at] != taught[start]:
            runs.append((tokenizer.decode(ids[start:at]), bool(taught[start])))
            start = at
    return runs


def print_rows(shown: list[dict[str, Any]]) -> None:
    """What is supervised stands between ⟦ and ⟧, and in bold where the terminal has it."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for row in shown:
        text = Text(f"{row['source']} ({row['tokens']} tokens): ", style="dim")
        for part, taught in row["runs"]:
            text.append(f"⟦{part}⟧" if taught else part, style="bold green" if taught else "default")
        if row["target"] is not None:
            text.append(f" → ⟦{row['target']}⟧", style="bold green")
        console.print(text)
