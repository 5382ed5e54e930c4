"""Data sets as LeRobot 3 writes them: parquet files of frames, tables of episodes and tasks, pictures or videos.

    meta/info.json  meta/tasks.parquet  meta/episodes/**/*.parquet  data/**/*.parquet  videos/<camera>/**/*.mp4

A row is an episode: its task, and frame by frame the pictures of all cameras, ``observation.state`` and ``action``.
Pictures are bytes in the table (``dtype: image``), or frames of a video, which PyAV decodes where it is installed. The
names of the action's numbers are told as its units. Files are read from the folder alone.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from luthier.data.files import Row
from luthier.types import Finding, Source

INFO = Path("meta/info.json")
VERSION = "v3."
STATE, ACTION, CAMERA = "observation.state", "action", "observation.image"


class Unreadable(Exception):
    """What is wrong with a data set as a whole: a finding."""

    def __init__(self, code: str, where: str, what: str, mend: str = ""):
        super().__init__(what)
        self.finding = Finding(code, where, what, mend)


def is_lerobot(folder: Path) -> bool:
    return (folder / INFO).is_file()


def read_lerobot(folder: Path, shown: str) -> tuple[list[Row], list[Finding]]:
    """Rows of the format `episode`, and what is wrong. Nothing is raised."""
    try:
        info = _info(folder, shown)
        return _episodes(folder, shown.rstrip("/"), info)
    except Unreadable as unreadable:
        return [], [unreadable.finding]


def _info(folder: Path, shown: str) -> dict[str, Any]:
    where = f"{shown}/{INFO}"
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        version, features = str(info.get("codebase_version")), info["features"]
    except (ValueError, KeyError, AttributeError, OSError) as error:
        raise Unreadable("data.malformed", where, f"can't be read ({error!r})", "get the file again") from None
    if not version.startswith(VERSION):
        mend = "convert it with LeRobot's own script (convert_dataset_v21_to_v30)"
        raise Unreadable("data.lerobot-version", where, f"this is version {version}, and 3 is read", mend)
    if ACTION not in features:
        what = f"it has no feature `action`; it has {', '.join(features)}"
        raise Unreadable("data.missing-field", where, what, "give a data set of demonstrations")
    if find_spec("pyarrow") is None:
        what, mend = "parquet is read with pyarrow, which is not installed", 'pip install "luthier[data]"'
        raise Unreadable("data.needs-extra", shown, what, mend)
    if _cameras(info, "video") and find_spec("av") is None:
        what = (
            f"its pictures are videos ({', '.join(_cameras(info, 'video'))}), which PyAV decodes; it is not installed"
        )
        raise Unreadable("data.needs-extra", shown, what, "pip install av, or write it with `use_videos=False`")
    return info


def _cameras(info: dict[str, Any], kind: str) -> list[str]:
    features = info["features"].items()
    return sorted(name for name, told in features if name.startswith(CAMERA) and told.get("dtype") == kind)


def _table(folder: Path, below: str) -> list[dict[str, Any]]:
    """The rows of all parquet files below a folder, each with its file and number."""
    import pyarrow
    import pyarrow.parquet

    rows: list[dict[str, Any]] = []
    for file in sorted((folder / below).rglob("*.parquet")) if (folder / below).is_dir() else [folder / below]:
        try:
            found = pyarrow.parquet.read_table(file).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            where = str(file.relative_to(folder))
            raise Unreadable("data.malformed", where, f"can't be read ({str(error).splitlines()[0]})") from None
        rows += [row | {"_file": str(file.relative_to(folder)), "_line": at} for at, row in enumerate(found, start=1)]
    return rows


def _episodes(folder: Path, shown: str, info: dict[str, Any]) -> tuple[list[Row], list[Finding]]:
    tasks = {int(row["task_index"]): _task_of(row) for row in _table(folder, "meta/tasks.parquet")}
    about = {int(row["episode_index"]): row for row in _table(folder, "meta/episodes")}
    frames: dict[int, list[dict[str, Any]]] = {}
    for row in _table(folder, "data"):
        frames.setdefault(int(row["episode_index"]), []).append(row)
    videos, cameras, units = _Videos(folder, info), _cameras(info, "image"), _units(info["features"][ACTION])
    rows: list[Row] = []
    findings: list[Finding] = []
    for episode, found in sorted(frames.items()):
        found.sort(key=lambda row: int(row["frame_index"]))
        source = Source(f"{shown}/{found[0]['_file']}", found[0]["_line"])
        told = about.get(episode)
        if told is None or int(told["length"]) != len(found):
            of = "no entry" if told is None else f"{told['length']} frames"
            what = f"episode {episode} has {len(found)} frames here, and {of} in meta/episodes"
            findings.append(Finding("data.malformed", str(source), what, "write the data set again"))
            continue
        seen = [[row[name] for name in cameras] for row in found]
        for pictures, more in zip(seen, videos.frames(told, len(found)), strict=True):
            pictures += more
        trajectory = [
            {"image": pictures or None, "state": row.get(STATE), "action": row[ACTION]}
            for row, pictures in zip(found, seen, strict=True)
        ]
        instruction = tasks.get(int(found[0].get("task_index", -1)), "")
        rows.append((source, {"instruction": instruction, "trajectory": trajectory} | units))
    return rows, findings or ([] if rows else [Finding("data.empty", shown, "has 0 episodes")])


def _task_of(row: dict[str, Any]) -> str:
    """The task stands in the table's index, which pandas names in its own way."""
    return str(next((row[name] for name in ("task", "__index_level_0__", "index") if name in row), ""))


def _units(action: dict[str, Any]) -> dict[str, str]:
    names: Any = action.get("names") or []
    names = next(iter(names.values()), []) if isinstance(names, dict) else names
    flat = [str(one) for part in names for one in (part if isinstance(part, list) else [part])]
    return {"units": ", ".join(flat)} if flat else {}


class _Videos:
    """Frames of the cameras that are videos. Each file is decoded once, in the order in which episodes lie in it."""

    def __init__(self, folder: Path, info: dict[str, Any]):
        self.folder, self.template = folder, str(info.get("video_path") or "")
        self.cameras, self.fps = _cameras(info, "video"), float(info.get("fps") or 30)
        self._open: dict[Path, list[bytes]] = {}

    def frames(self, about: dict[str, Any], length: int) -> Iterator[list[bytes]]:
        """For each frame of an episode the pictures of all these cameras."""
        columns = [self._of(camera, about, length) for camera in self.cameras]
        yield from ([column[at] for column in columns] for at in range(length))

    def _of(self, camera: str, about: dict[str, Any], length: int) -> list[bytes]:
        place = {part: int(about[f"videos/{camera}/{part}_index"]) for part in ("chunk", "file")}
        path = self.folder / self.template.format(
            video_key=camera, chunk_index=place["chunk"], file_index=place["file"]
        )
        if path not in self._open:
            self._open = {**{p: v for p, v in self._open.items() if camera not in str(p)}, path: decoded(path)}
        first = round(float(about[f"videos/{camera}/from_timestamp"]) * self.fps)
        found = self._open[path][first : first + length]
        if len(found) < length:
            what = f"holds {len(self._open[path])} frames, and an episode needs those up to {first + length}"
            raise Unreadable("data.malformed", str(path.relative_to(self.folder)), what, "get the file again")
        return found


def decoded(path: Path) -> list[bytes]:
    """Every frame of a video as the bytes of a PNG file. Raises Unreadable."""
    import av

    frames = []
    try:
        with av.open(str(path)) as video:
            for frame in video.decode(video=0):
                held = io.BytesIO()
                frame.to_image().save(held, "PNG", compress_level=1)
                frames.append(held.getvalue())
    except (OSError, ValueError) as error:  # what PyAV raises is one of them
        raise Unreadable("data.malformed", str(path), f"is no video that can be decoded ({error})") from None
    return frames
