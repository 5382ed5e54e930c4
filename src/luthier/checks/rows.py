"""What is supervised in real rows makes sense."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.types import Finding

if TYPE_CHECKING:
    from luthier.runs.prepared import Prepared


def terminator_supervised(prepared: Prepared) -> list[Finding]:
    """A supervised answer ends in a token that stops generation; else the model never learns to stop."""
    ends = set(prepared.task.terminators(prepared.backbone))
    if not ends:
        return []
    missing = []
    for row in prepared.train.rows:
        if len(row["input_ids"]) < row["full_length"]:
            continue  # cut: told by data.too-long
        written = row["target_ids"] if "target_ids" in row else row["input_ids"]
        if any(at < 0 or written[at] not in ends for at in row["turn_ends"]):
            missing.append(row["row"])
    if not missing:
        return []
    source = prepared.train.examples[missing[0]].source
    what = (
        f"in {len(missing)} of {len(prepared.train.rows)} rows the end of an answer is not supervised (first: {source})"
    )
    mend = "use a chat template that closes the assistant's turn, such as `model.template: chatml`"
    return [Finding("data.terminator", str(source), what, mend, "the model would not learn to stop")]


def words_read(prepared: Prepared) -> list[Finding]:
    """Labelled words that no token stands for: cut off with the end of a long row, or not there for the tokenizer."""
    cut, none, words, first = 0, 0, 0, ""
    for row in prepared.train.rows:
        missing = sum(at is None for at in row.get("at", ()))
        words += len(row.get("at", ()))
        if missing:
            is_cut = row["full_length"] > len(row["input_ids"])
            cut, none = (cut + missing, none) if is_cut else (cut, none + missing)
            first = first or str(prepared.train.examples[row["row"]].source)
    if not cut + none:
        return []
    what = f"{cut + none} of {words} words have no token of their own ({cut} cut off, {none} that the tokenizer drops "
    what += f"or joins to the word before; first: {first}): they are not learned, and count as O where they are judged"
    mend = "read long rows in windows (`tag.windows: true`), or raise `max_length`" if cut else ""
    return [Finding("data.words-unread", "data.train", what, mend, severity="warning")]
