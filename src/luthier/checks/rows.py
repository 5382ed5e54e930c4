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
