"""The rows of both sides: read, in a format that the task takes, split, and none lost uncounted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.data.encode import Encoded
from luthier.data.few import few
from luthier.data.formats.choose import ReadResult, read_examples
from luthier.data.split import duplicates, row_key, split
from luthier.models.audio.sounds import Clip
from luthier.models.backbone import Backbone
from luthier.recipe import ResolvedRecipe
from luthier.runs.finding.passages import Passages
from luthier.runs.run import picture_folders
from luthier.types import Example, Finding, Refused

EVAL_SHARE = 0.1
# Below this many rows an automatic evaluation split would say nothing.
SMALLEST_TO_SPLIT = 40


@dataclass
class Rows:
    """The examples of each side, and how reading went. ``selection`` is split off train where the recipe wants it."""

    train: list[Example]
    evaluation: list[Example]
    findings: list[Finding]
    report: dict[str, Any]
    selection: list[Example] = field(default_factory=list)

    @property
    def sides(self) -> tuple[list[Example], ...]:
        return self.train, self.evaluation, self.selection


def read_labelled(
    resolved: ResolvedRecipe,
    task: Any,
    paths: Sequence[Any],
    base: Path | None = None,
    passages: Passages | None = None,
    images: Sequence[Path] | None = None,
) -> ReadResult:
    """Files of rows as the recipe says that they are to be read; paths are relative to its folder, or to ``base``.

    ``images``: folders of pictures, in place of those of the recipe.
    """
    data = resolved.recipe.data
    return read_examples(
        paths, base=base or resolved.base, columns=data.columns or None, fmt=data.format, prefer=task.formats,
        change=passages.into_rows if passages else None,
        images=picture_folders(resolved) if images is None else images,
    )  # fmt: skip


def read_rows(resolved: ResolvedRecipe, task: Any) -> Rows:
    """Both sides of the data: files as given, or a share of train split off by content."""
    data = resolved.recipe.data
    seed = resolved.recipe.seed if data.split_seed is None else data.split_seed
    paths = [data.train] if isinstance(data.train, str) else data.train
    passages = Passages.of(resolved, task)
    read = read_labelled(resolved, task, paths, passages=passages)
    findings = _bad_rows(read, data, task, "data.train")
    report: dict[str, Any] = {"train": _told(read, paths) | _found(passages, "data.train", findings)}
    train = read.examples
    if isinstance(data.eval, str | list):
        eval_paths = [data.eval] if isinstance(data.eval, str) else data.eval
        other = read_labelled(resolved, task, eval_paths, passages=passages)
        findings += [found for found in _bad_rows(other, data, task, "data.eval") if found not in findings]
        report["eval"] = _told(other, eval_paths) | _found(passages, "data.eval", findings)
        evaluation = other.examples
    else:
        train = task.pieces(train)
        share = data.eval if data.eval is not None else EVAL_SHARE if len(train) >= SMALLEST_TO_SPLIT else 0.0
        train, evaluation = _split(train, share, seed, findings)
        report["eval"] = {"files": [f"{share:.0%} of train, by content hash"] if share else [], "read": len(evaluation)}
        report["train"]["split_off"] = len(evaluation)
    if data.on_leak == "drop":
        train = _without_leaks(train, evaluation, report)
    findings += duplicates(train, evaluation)
    selection: list[Example] = []
    if data.select:
        train, selection = _split(train, data.select, seed, findings, "select")
        report["train"]["selection"] = len(selection)
    if data.few_shot and train:
        kept, told = few(train, data.few_shot, seed)
        report["train"]["skipped"] |= {"beyond few_shot": len(train) - len(kept)} if len(kept) < len(train) else {}
        train, findings = kept, findings + told
    return Rows(train, evaluation, findings, report, selection)


def _split(
    train: list[Example], share: float, seed: int, findings: list[Finding], purpose: str = "eval"
) -> tuple[list[Example], list[Example]]:
    """(train, held out); all of it in train where it can't be split, and why among the findings."""
    try:
        return split(train, share, seed, purpose) if train else ([], [])
    except Refused as refused:
        findings += refused.findings
        return train, []


def _without_leaks(train: list[Example], evaluation: list[Example], report: dict[str, Any]) -> list[Example]:
    held_out = {row_key(example) for example in evaluation}
    kept = [example for example in train if row_key(example) not in held_out]
    if len(kept) < len(train):
        report["train"]["skipped"]["also in eval"] = len(train) - len(kept)
    return kept


def _bad_rows(read: ReadResult, data: Any, task: Any, where: str) -> list[Finding]:
    """With `on_bad_row: skip` bad rows are counted warnings, up to the cap; another task's format is an error."""
    findings, bad = list(read.findings), bad_row_count(read)
    if read.format and not set(read.format.split(" + ")) <= set(task.formats):
        what = f"these rows are `{read.format}`; this task takes {', '.join(task.formats)}"
        mend = "choose another task, or map the columns with `data.columns`"
        findings.append(Finding("task.format", where, what, mend))
        read.examples.clear()
    if data.on_bad_row == "skip" and bad:
        if bad > data.max_bad_rows:
            what = f"{bad} bad rows are more than `data.max_bad_rows: {data.max_bad_rows}`"
            return [*findings, Finding("data.too-many-bad", where, what, "mend the file, or raise the cap")]
        return [_as_warning(finding) if finding.where.count(":") else finding for finding in findings]
    return findings


def bad_row_count(read: ReadResult) -> int:
    return read.rows_read - len(read.examples)


def _as_warning(finding: Finding) -> Finding:
    return Finding(finding.code, finding.where, finding.what, finding.mend, finding.why, "warning")


def _found(passages: Passages | None, where: str, findings: list[Finding]) -> dict[str, Any]:
    """How many questions were given passages, and how many of them the wrong ones; a note among the findings."""
    if passages is None:
        return {}
    counts, notes = passages.counted(where)
    findings += notes
    return {"passages": counts}


def _told(read: ReadResult, paths: list[Any]) -> dict[str, Any]:
    files = [path if isinstance(path, str) else str(path.get("path")) for path in paths]
    bad = bad_row_count(read)
    return {"files": files, "format": read.format, "read": read.rows_read, "skipped": {"bad row": bad} if bad else {}}


def tell(report: dict[str, Any], train: Encoded, evaluation: Encoded, known: Sequence[str] = ()) -> None:
    """``known`` are the task's labels: those of the spans that are among them are counted too, once a row."""
    for side, encoded in (("train", train), ("eval", evaluation)):
        skipped = {**report[side].get("skipped", {}), **encoded.skipped}
        report[side] |= {"used": len(encoded.examples), "skipped": skipped}
        report[side] |= {"tokens": encoded.tokens, "longest": encoded.longest}
        if len(encoded.rows) > len(encoded.examples):
            report[side]["pieces"] = len(encoded.rows)
    labels: dict[str, int] = {}
    for example in train.examples:
        marked = sorted({label for _, _, label in example.spans or ()} & {*known})
        for label in example.label if isinstance(example.label, list) else [example.label, *marked]:
            if isinstance(label, str | int) and len(labels) < 200:
                labels[str(label)] = labels.get(str(label), 0) + 1
    report["labels"] = labels


def decode(backbone: Backbone, rows: Rows) -> None:
    """Read every picture and every sound once, in threads."""
    examples = [example for side in rows.sides for example in side]
    if backbone.pictures is not None:
        both = ([*(example.images or ()), *(example.negative_images or ())] for example in examples)
        backbone.pictures.prepare(one for some in both for one in some)
    if backbone.sounds is not None:
        backbone.sounds.prepare(Clip(one) for example in examples for one in example.sounds or ())
