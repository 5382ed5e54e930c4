"""The processor of a pretrained model that reads pictures and writes text, and how it lays pictures into rows: told by
what the processor has.
"""

from __future__ import annotations

from typing import Any

from luthier.models.vision.leading import LeadingPictures, SourcePictures, leads
from luthier.models.vision.pixels import AUTO, made_by, open_pixels
from luthier.models.vision.prefix_lm import PrefixPictures, lays_out_rows
from luthier.models.vision.processed import ProcessedPictures
from luthier.models.vision.stills import open_for_pictures
from luthier.models.vision.towers import image_id, writes_from_source
from luthier.types import Finding, Refused


def open_processor(
    path: str, tokenizer: Any, config: Any, backend: str = AUTO, **where: Any
) -> ProcessedPictures:  # fmt: skip
    """``backend`` makes its pixels (``models/vision/pixels.py``).

    Raises Refused where pictures can't be put into a row, or the processor needs what is not installed."""
    import transformers

    try:
        processor: Any = transformers.AutoProcessor.from_pretrained(path, trust_remote_code=False, **where)
    except (ImportError, OSError, ValueError, AttributeError) as error:
        processor = _for_pictures(path, tokenizer, config, error, **where)
    if made_by(processor) != backend != AUTO:
        processor.image_processor = open_pixels(path, backend, **where)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = processor.chat_template
    processor.tokenizer = tokenizer
    leading = SourcePictures if writes_from_source(config) else LeadingPictures
    kind = PrefixPictures if lays_out_rows(processor) else leading if leads(processor) else ProcessedPictures
    return kind(processor, image_id=int(image_id(config) or -1))


def _for_pictures(path: str, tokenizer: Any, config: Any, whole: Exception, **where: Any) -> Any:
    """The processor without what it reads films by, where it could not be opened whole."""
    try:
        if (found := open_for_pictures(path, tokenizer, config, **where)) is not None:
            return found
    except ImportError as error:
        whole = error
    if not isinstance(whole, ImportError):
        raise whole
    what = f"the processor of this model needs more than is installed: {str(whole).strip().splitlines()[0][:200]}"
    mend = "install it, or choose a model such as LLaVA, Idefics3 or Gemma 3"
    raise Refused(Finding("model.processor", "model.name", what, mend)) from None
