"""Which library makes the pixels of a picture: transformers' image processors are written twice, on torchvision and on
Pillow, whose pixels differ a little (``docs/pictures.md`` says how much). What one made can be asked for again.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from luthier.types import Finding, Refused

AUTO = "auto"


def open_pixels(path: str, backend: str = AUTO, **where: Any) -> Any:
    """The image processor of a folder or a hub id: on ``backend`` where it is to be had, else on the other; which it
    is, ``made_by`` tells. ``auto`` is transformers' choice, torchvision where it is installed.

    Raises Refused where it needs what is not installed or makes no pictures of one size, OSError and ValueError where
    there is none.
    """
    import transformers

    wanted = {} if backend == AUTO else {"backend": backend}
    try:
        found = transformers.AutoImageProcessor.from_pretrained(path, trust_remote_code=False, **wanted, **where)
    except (ImportError, ValueError) as error:
        told = str(error).strip().splitlines()[0][:200]
        if find_spec("torchvision") is None and "torchvision" in str(error).lower():
            told = "its pictures are read by torchvision alone"
        elif isinstance(error, ValueError):
            raise
        what = f"the processor of this model needs more than is installed: {told}"
        mend = "install it, or choose a model of another family"
        raise Refused(Finding("model.processor", "model.name", what, mend)) from None
    if "spatial_shapes" in found.model_input_names:
        what = f"{type(found).__name__} makes patches of pictures of any shape, and not pictures of one size"
        mend = "choose a model of one size, such as SigLIP 2 without NaFlex (`siglip2-base-patch16-224`)"
        raise Refused(Finding("model.processor", "model.name", what, mend))
    return found


def made_by(processor: Any) -> str:
    """The backend of an image processor, or of the one in a processor of pictures and text; "" of one with none."""
    return str(getattr(getattr(processor, "image_processor", processor), "backend", ""))
