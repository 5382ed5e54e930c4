"""Captions as they are published: one file that names pictures and what is said of them, as a row for each picture.

| file | what is read of it |
|---|---|
| COCO (`captions_val2017.json`) | `images`: id, file_name; `annotations`: image_id, caption |
| Karpathy's splits (`dataset_coco.json`, of Flickr too) | `images`: filepath?, filename, sentences: raw; split |

A row is ``image``, ``captions`` (and ``split``); its line is the picture's number in ``images``. Tables of Flickr30k
(`results.csv`) need nothing of this: each of their rows is a picture with one caption.

References: Chen et al. 2015 (arXiv 1504.00325); Karpathy and Fei-Fei 2015 (arXiv 1412.2306).
"""

from __future__ import annotations

from typing import Any, TypeGuard

Bad = list[tuple[str, str, str]]
"""(where in the file, what is wrong, how to mend it)"""


Numbered = list[tuple[int, dict[str, Any]]]


def published(value: dict[str, Any]) -> tuple[Numbered, Bad] | None:
    """The rows of such a file, each with its picture's number, and what of it can't be used; None where it is none."""
    pictures, told = value.get("images"), value.get("annotations")
    if not objects(pictures):
        return None
    if objects(told) and any("caption" in one for one in told):
        return _coco(pictures, told)
    if any("sentences" in one and "filename" in one for one in pictures):
        return [(at, _karpathy(one)) for at, one in enumerate(pictures, start=1)], []
    return None


def objects(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    """Whether it is a list of objects, at least one."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _coco(pictures: list[dict[str, Any]], told: list[dict[str, Any]]) -> tuple[Numbered, Bad]:
    bad: Bad = []
    captions: dict[Any, list[str]] = {}
    for at, picture in enumerate(pictures):
        if not isinstance(picture.get("id"), int | str):
            bad.append((f"images[{at}].id", "this picture has no id: no caption can be of it", ""))
        elif picture["id"] in captions:
            what = f"the id {picture['id']} stands at two pictures: whose captions these are can't be told"
            bad.append((f"images[{at}].id", what, "give each picture its own"))
        else:
            captions[picture["id"]] = []
    for at, one in enumerate(told):
        caption, of = one.get("caption"), one.get("image_id")
        if not isinstance(caption, str) or not caption.strip():
            bad.append((f"annotations[{at}].caption", "there is no caption: there is nothing to learn", "leave it out"))
        elif not isinstance(of, int | str) or of not in captions:
            what = f"it is of the picture {of!r}, which is not among `images`"
            bad.append((f"annotations[{at}].image_id", what, "add the picture, or leave the caption out"))
        else:
            captions[of].append(caption.strip())
    rows: Numbered = []
    for number, picture in enumerate(pictures, start=1):
        mine = captions.pop(picture.get("id"), None) if isinstance(picture.get("id"), int | str) else None
        if mine is not None:  # the second of an id, and one without, are told above
            named = {"image": picture["file_name"]} if "file_name" in picture else {}
            rows.append((number, named | {"captions": mine}))
    return rows, bad


def _karpathy(picture: dict[str, Any]) -> dict[str, Any]:
    """What is missing or of a wrong kind stays so, and is told with the row."""
    sentences, name = picture.get("sentences"), picture.get("filename")
    row: dict[str, Any] = {}
    if isinstance(name, str):
        row["image"] = f"{folder}/{name}" if isinstance(folder := picture.get("filepath"), str) and folder else name
    if isinstance(sentences, list):
        row["captions"] = [one.get("raw") if isinstance(one, dict) else one for one in sentences]
    return row | ({"split": picture["split"]} if "split" in picture else {})
