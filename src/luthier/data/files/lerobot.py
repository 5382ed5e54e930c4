"""Data sets as LeRobot 3 writes them: parquet files of frames, tables of episodes and tasks, pictures or videos.

    meta/info.json  meta/tasks.parquet  meta/episodes/**/*.parquet  data/**/*.parquet  videos/<camera>/**/*.mp4

A row is an episode: its task, and frame by frame the pictures of all cameras, ``observation.state`` and ``action``.
Pictures are bytes in the table (``dtype: image``), or frames of a video, which PyAV decodes where it is installed. The
names of the action's numbers are told as its units. Files are read from the folder alone.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from luthier.data.files import videos
from luthier.data.files.reading import Row
from luthier.types import Finding, Source

INFO = Path("meta/info.json")
VERSION = "v3."
STATE, ACTION, CAMERA = "observation.state", "action", "observation.image"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


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
    if (cameras := _cameras(info, "video")) and not videos.installed():
        what = f"its pictures are videos ({', '.join(cameras)}), which PyAV decodes; it is not installed"
        raise Unreadable("data.needs-extra", shown, what, 'pip install "luthier[video]"')
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
    shown_by, cameras, units = _Videos(folder, info), _cameras(info, "image"), _units(info["features"][ACTION])
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
        try:
            shots = shown_by.frames(told, found)
        except Unreadable as unreadable:
            findings.append(unreadable.finding)
            continue
        for pictures, more in zip(seen, shots, strict=True):
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
    """Frames of the cameras that are videos, of which a file holds several episodes, one after the other."""

    def __init__(self, folder: Path, info: dict[str, Any]):
        self.folder, self.template = folder, str(info.get("video_path") or VIDEO)
        self.cameras, self.fps = _cameras(info, "video"), float(info.get("fps") or 30)

    def frames(self, about: dict[str, Any], frames: list[dict[str, Any]]) -> list[list[bytes]]:
        """For each frame of an episode the pictures of all these cameras. Raises Unreadable."""
        columns = [self._of(camera, about, frames) for camera in self.cameras]
        return [[column[at] for column in columns] for at in range(len(frames))]

    def _of(self, camera: str, about: dict[str, Any], frames: list[dict[str, Any]]) -> list[bytes]:
        """A frame is shown at its number over the frames a second, after the time at which its episode begins."""
        try:
            place = {f"{part}_index": int(about[f"videos/{camera}/{part}_index"]) for part in ("chunk", "file")}
            begins = float(about[f"videos/{camera}/from_timestamp"])
        except (KeyError, TypeError) as error:
            what = f"episode {about['episode_index']} has no place in the videos of {camera} ({error})"
            raise Unreadable("data.malformed", about["_file"], what, "get the file again") from None
        path = self.folder / self.template.format(video_key=camera, **place)
        where = f"{path.relative_to(self.folder)}: episode {about['episode_index']}"
        if not path.is_file():
            raise Unreadable("data.missing", where, "there is no such file", "get the data set's videos too")
        try:
            return videos.frames_at(path, [begins + int(row["frame_index"]) / self.fps for row in frames])
        except videos.NoFrames as error:
            raise Unreadable("data.malformed", where, str(error), "get the file again") from None
