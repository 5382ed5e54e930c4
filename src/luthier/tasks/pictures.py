"""What the tasks that take pictures share: a row's pictures as features, or what is wrong with each."""

from __future__ import annotations

from luthier.data.pictures import BadPicture
from luthier.models.backbone import Backbone
from luthier.models.images import ImageBackbone
from luthier.types import Example, Features, Finding, Picture, Refused


def read_pictures(backbone: Backbone, example: Example) -> Features:
    """Raises Refused where the model reads none, the row has none, or one can't be used."""
    if not isinstance(backbone, ImageBackbone):
        what = f"{backbone.name} reads text alone, and these rows have pictures"
        mend = "choose a model that reads pictures (such as ViT, DINOv2, ConvNeXt or MobileNet)"
        raise Refused(Finding("model.no-pictures", "model.name", what, mend))
    if not example.images:
        what = f"{backbone.name} reads pictures, and this row has none"
        raise Refused(Finding("data.no-picture", str(example.source), what, "name one in a column `image`"))
    findings = [found for one in example.images if (found := _problem(backbone, example, one))]
    if findings:
        raise Refused(*findings)
    return backbone.picture_row(example.images)


def _problem(backbone: ImageBackbone, example: Example, picture: Picture) -> Finding | None:
    try:
        backbone.pictures.key(picture)
    except BadPicture as bad:
        name = "picture" if isinstance(picture, bytes) else str(picture)
        return Finding("data.picture", f"{example.source}:image", f"{name} {bad.what}", bad.mend)
    return None
