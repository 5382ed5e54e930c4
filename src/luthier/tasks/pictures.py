"""What the tasks that take pictures share: a row's pictures as features, or what is wrong with each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.data.formats.rows import IMAGE
from luthier.data.formats.texts import TEXT
from luthier.data.media.pictures import BadPicture
from luthier.models.backbone import Backbone
from luthier.models.joined.multimodal import MultimodalBackbone
from luthier.models.vision.illustrated import Illustrated
from luthier.models.vision.images import ImageBackbone
from luthier.types import INLINE, Example, Features, Finding, Picture, Refused

CHOOSE = {
    "pictures": "choose one that reads both (such as LLaVA or Gemma 3), or `model: {image: ..., text: ...}`",
    "sounds": "join it with an encoder of sounds: `model: {audio: ..., text: ...}`",
}


def read_pictures(backbone: Backbone, example: Example, limit: int | None) -> Features:
    """Raises Refused where the model reads none, the row has none, or one can't be used."""
    if not isinstance(backbone, ImageBackbone | MultimodalBackbone):
        what = f"{backbone.name} reads text alone, and these rows have pictures"
        mend = "choose a model that reads pictures (such as ViT, DINOv2, ConvNeXt or MobileNet)"
        if isinstance(backbone, Illustrated):
            what = f"{backbone.name} reads pictures in a conversation, and these rows are none"
            mend = "use `task: vqa` or `chat`, or classify by an image encoder"
        raise Refused(Finding("model.no-pictures", "model.name", what, mend))
    if not example.images and not backbone.reads_text:
        what = f"{backbone.name} reads pictures, and this row has none"
        raise Refused(Finding("data.no-picture", str(example.source), what, "name one in a column `image`"))
    findings = bad_pictures(backbone, example)
    if findings:
        raise Refused(*findings)
    try:
        return backbone.picture_row(example.images or [], example.text, limit)
    except Refused as refused:
        raise Refused(*(replace(one, where=_at(one.where, example)) for one in refused.findings)) from None


def _at(where: str, example: Example) -> str:
    """Places in a row are told with its file and line."""
    return f"{example.source}:{where}" if where in ("text", "image") else where


def read_among_words(backbone: Backbone, example: Example) -> tuple[Illustrated, list[Any]]:
    """The model, which must have places for pictures or for sounds in its rows, and those of this one. Raises Refused
    where it has none, or one can't be used."""
    shows = backbone.shows if isinstance(backbone, Illustrated) else ""
    for kind, some in (("pictures", example.images), ("sounds", example.sounds)):
        if some and shows != kind:
            what = f"{backbone.name} reads text {f'and {shows}' if shows else 'alone'}, and these rows have {kind}"
            raise Refused(Finding(f"model.no-{kind}", "model.name", what, CHOOSE[kind]))
    assert isinstance(backbone, Illustrated)
    if findings := bad_pictures(backbone, example):
        raise Refused(*findings)
    return backbone, [*(example.images or []), *(example.sounds or [])]


def in_places(reader: Illustrated, row: Features, images: list[Picture], where: str) -> Features:
    """The row with the tokens of its pictures; what is wrong is told at ``where``. Raises Refused."""
    with told_at(where):
        return reader.illustrated(row, images)


@contextmanager
def told_at(where: str) -> Iterator[None]:
    """What is wrong inside is told at ``where``. Raises Refused."""
    try:
        yield
    except Refused as refused:
        raise Refused(*(replace(one, where=where) for one in refused.findings)) from None


def bad_pictures(backbone: Backbone, example: Example) -> list[Finding]:
    """What is wrong with each picture of a row, or with its sound, that can't be used."""
    assert backbone.pictures is not None
    findings = []
    kinds = (
        ("picture", "image", example.images), ("picture", "negative_images", example.negative_images),
        ("sound", "audio", example.sounds),
    )  # fmt: skip
    for kind, column, one in ((kind, column, one) for kind, column, some in kinds for one in some or []):
        try:
            backbone.pictures.key(one)  # type: ignore[arg-type]
        except BadPicture as bad:
            name, where = str(one) if isinstance(one, Path) else kind, f"{example.source}:{column}"
            code = "data.sound" if kind == "sound" else "data.picture"
            findings.append(Finding(code, where, f"{name} {bad.what}", bad.mend))
    return findings


def picture_example(given: Any) -> Example:
    """An input as a person gives it: the path of a picture, its bytes, or a row in the columns of training rows."""
    row = given if isinstance(given, dict) else {"image": given}
    text = next((row[name] for name in (*TEXT, "question") if name in row), None)
    return Example(INLINE, images=pictures_of(row), text=text)


def pictures_of(row: dict[str, Any], columns: Sequence[str] = IMAGE) -> list[Picture]:
    """Those that a row names, in any column that training rows have them in."""
    named: Any = next((row[name] for name in columns if row.get(name)), [])
    return given_pictures(named if isinstance(named, list) else [named])


def given_pictures(named: list[Any]) -> list[Picture]:
    """Paths, or bytes, also as data sets on a hub hold them: ``{"bytes": ..., "path": ...}``."""
    held = [(one.get("bytes") or one.get("path")) if isinstance(one, dict) else one for one in named]
    return [one if isinstance(one, bytes) else Path(str(one)) for one in held]


def told_pictures(example: Example) -> list[str]:
    """The pictures of a row as a reader should see them."""
    return [f"[{one.name}]" if isinstance(one, Path) else "[picture]" for one in example.images or []]
