"""A processor of pictures and films, opened for pictures alone, where what its films need (torchvision, num2words) is
not installed. Its own code reads and places pictures; only the part that reads films is left out, and what a folder
says of films is kept for whoever opens it with all that is needed.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILMS = "video_processor"


def open_for_pictures(path: str, tokenizer: Any, config: Any, **where: Any) -> Any:
    """The processor of a model of this config without its reader of films; None where it has no such part, and where
    transformers knows no processor for the config. Raises ImportError where pictures need more than is installed."""
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    kind: Any = PROCESSOR_MAPPING.get(type(config), None)
    if kind is None or FILMS not in kind.get_attributes():
        return None
    told, _ = kind.get_processor_dict(path, **where)
    pictures = transformers.AutoImageProcessor.from_pretrained(path, trust_remote_code=False, **where)
    given = {name: told[name] for name in _options(kind) if name in told}
    template = given.pop("chat_template", None) or tokenizer.chat_template
    made = _without_films(kind)(pictures, tokenizer, chat_template=template, **given)
    made.films = told.get(FILMS) or _of_films(path, **where)
    return made


def _of_films(path: str, **where: Any) -> Any:
    """What a folder says of films in a file of its own, as older ones do."""
    from transformers.video_processing_utils import BaseVideoProcessor

    try:
        return BaseVideoProcessor.get_video_processor_dict(path, **where)[0]
    except OSError:
        return None


def _options(kind: Any) -> list[str]:
    """What its ``__init__`` takes beside its parts."""
    code = kind.__init__.__code__
    return [name for name in code.co_varnames[1 : code.co_argcount] if name not in kind.get_attributes()]


def _without_films(kind: Any) -> Callable[..., Any]:
    """The same processor under the same name; its parts and options are, as transformers reads them off ``__init__``,
    the others."""
    from transformers import ProcessorMixin

    def __init__(self: Any, image_processor: Any, tokenizer: Any, chat_template: Any = None, **more: Any) -> None:
        try:
            kind.__init__(self, image_processor, tokenizer, None, chat_template=chat_template, **more)
        except ImportError:  # a package that only films need: what pictures need was set before it was asked for
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def save_pretrained(self: Any, folder: str | Path, **more: Any) -> Any:
        written = kind.save_pretrained(self, folder, **more)
        if self.films:
            told = Path(folder) / "processor_config.json"
            told.write_text(json.dumps({**json.loads(told.read_text()), FILMS: self.films}, indent=2) + "\n")
        return written

    told = inspect.signature(kind.__init__)
    kept = [one for name, one in told.parameters.items() if name != FILMS]
    __init__.__signature__ = told.replace(parameters=kept)  # type: ignore[attr-defined]
    return type(kind.__name__, (kind,), {"__init__": __init__, "save_pretrained": save_pretrained, "films": None})
