"""A page of thumbnails: what a search found, best first. It stands alone: pictures are in it, small."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.data.media.pictures import BadPicture, decode
from luthier.reports.markup import element, join
from luthier.types import Picture

SIDE = 200
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #1a1a1a; background: #fff }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 1.5rem }
figure { margin: 0 } figcaption { overflow-wrap: anywhere; color: #555 } img { max-width: 100%; border-radius: 4px }
blockquote { margin: 0; font-size: 1.1em }
@media (prefers-color-scheme: dark) { body { color: #eee; background: #111 } figcaption { color: #aaa } }
"""


def write_gallery(query: str, found: Sequence[dict[str, Any]], to: Path) -> None:
    """Write the page of the entries that ``query`` (a text, or a picture's path) found."""
    sought = thumbnail(Path(query)) if Path(query).is_file() else None
    title = element("h1", "Nearest to ", element("img", src=sought, alt=query) if sought else f"“{query}”")
    head = join(element("meta", charset="utf-8"), element("title", f"Search: {query}"), element("style", STYLE))
    body = element("body", title, element("main", [_figure(entry) for entry in found]))
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text("<!doctype html>" + element("html", element("head", head), body, lang="en"), encoding="utf-8")


def _figure(entry: dict[str, Any]) -> Any:
    score = f"{entry['score']:.3f} "
    if "audio" in entry:
        path = Path(entry["audio"])
        held = base64.b64encode(path.read_bytes()).decode() if path.is_file() else ""
        player = element("audio", controls="controls", src=f"data:audio/{path.suffix[1:].lower()};base64,{held}")
        return element("figure", player, element("figcaption", f"{score}{path}"))
    if "image" not in entry:
        place = f"{score}{entry['file']}:{entry['line']}"
        return element("figure", element("blockquote", entry["text"]), element("figcaption", place))
    source = thumbnail(Path(entry["image"]))
    shown = element("img", src=source, alt=entry["image"]) if source else element("blockquote", "[no longer there]")
    return element("figure", shown, element("figcaption", f"{score}{entry['image']}"))


def thumbnail(picture: Picture, side: int = SIDE) -> str | None:
    """A picture of at most ``side`` pixels a side, as a data URL; None where it can't be read."""
    try:
        image, _ = decode(picture)
    except BadPicture:
        return None
    image.thumbnail((side, side))
    held = io.BytesIO()
    image.save(held, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(held.getvalue()).decode()}"
