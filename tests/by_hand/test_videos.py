"""LeRobot's videos by hand: frames are told by their brightness, which is 8 times their number in the file, plus 16.

A file of 24 frames at 10 a second holds three episodes: of 5 frames from 0.0 s, of 7 from 0.5 s, of 12 from 1.2 s. So
the frame 3 of the second episode is shown at 0.5 + 3 / 10 = 0.8 s; it is number 8, and its brightness 80.
"""

from __future__ import annotations

import io
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from luthier.data.files import videos
from luthier.data.formats.choose import read_examples

LENGTHS, FPS, CAMERA = (5, 7, 12), 10, "observation.images.top"


def write_video(path: Path, frames: int, codec: str = "mpeg4", **options: str) -> Path:
    av = pytest.importorskip("av", reason="PyAV is not installed (extra `video`)")
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = Fraction(1, FPS)
        for at in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 16 + 8 * at, dtype=np.uint8), format="rgb24")
            frame.pts = at
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def write_set(folder: Path, frames: int = sum(LENGTHS), begins: dict[int, float] | None = None) -> Path:
    """Three episodes in one parquet file and one video, as LeRobot 3 lays them out."""
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    rows: list[dict[str, Any]] = []
    about: list[dict[str, Any]] = []
    for episode, length in enumerate(LENGTHS):
        first = sum(LENGTHS[:episode])
        about.append({
            "episode_index": episode, "length": length, f"videos/{CAMERA}/chunk_index": 0,
            f"videos/{CAMERA}/file_index": 0,
            f"videos/{CAMERA}/from_timestamp": (begins or {}).get(episode, first / FPS),
        })  # fmt: skip
        rows += [
            {"observation.state": [float(at)], "action": [float(at), 0.0], "timestamp": at / FPS, "frame_index": at,
             "episode_index": episode, "index": first + at, "task_index": 0} for at in range(length)
        ]  # fmt: skip
    tables = {
        "data/chunk-000/file-000.parquet": rows, "meta/tasks.parquet": [{"task_index": 0, "task": "brighter"}],
        "meta/episodes/chunk-000/file-000.parquet": about,
    }  # fmt: skip
    for name, found in tables.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(found), folder / name)
    features = {CAMERA: {"dtype": "video"}, "observation.state": {"dtype": "float32"}, "action": {"dtype": "float32"}}
    template = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    info = {"codebase_version": "v3.0", "fps": FPS, "features": features, "video_path": template}
    (folder / "meta/info.json").write_text(json.dumps(info))
    if frames:
        write_video(folder / template.format(video_key=CAMERA, chunk_index=0, file_index=0), frames)
    return folder


def numbers(pictures: list[Any]) -> list[int]:
    """Which frame of the file each picture is, by its mean brightness."""
    import numpy as np
    from PIL import Image

    return [round((np.asarray(Image.open(io.BytesIO(one))).mean() - 16) / 8) for one in pictures]


def test_an_episode_has_the_frames_that_lie_behind_its_offset(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    read = read_examples("set", base=tmp_path, prefer=("episode",))
    assert (read.findings, read.rows_read) == ([], 3)
    assert [numbers(list(one.images or [])) for one in read.examples] == [
        [*range(5)],
        [*range(5, 12)],
        [*range(12, 24)],
    ]
    second = read.examples[1].steps or []
    assert [step.action[0] for step in second if step.action] == [0, 1, 2, 3, 4, 5, 6]
    assert [step.images for step in second] == [(at,) for at in range(7)]


@pytest.mark.parametrize(
    ("codec", "options"),
    [("libx264", {"g": "12", "bf": "3"}), ("libsvtav1", {"g": "2", "crf": "30"})],
)
def test_frames_come_by_time_whatever_stands_between_key_frames(
    codec: str, options: dict[str, str], tmp_path: Path
) -> None:
    """Frames that are told by later ones are decoded out of order, and a key frame may lie up to a second back."""
    av = pytest.importorskip("av", reason="PyAV is not installed (extra `video`)")
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    path = write_video(tmp_path / "one.mp4", 28, codec, **options)
    for first, last in ((0, 28), (13, 14), (17, 25), (27, 28)):
        assert numbers(videos.frames_at(path, [at / FPS for at in range(first, last)])) == [*range(first, last)]


def test_a_time_between_two_frames_is_refused_at_lerobots_tolerance(tmp_path: Path) -> None:
    path = write_video(tmp_path / "one.mp4", 6)
    assert numbers(videos.frames_at(path, [0.30009])) == [3]
    with pytest.raises(videos.NoFrames, match=r"no frame within 0.0001 s of 0.3002 s \(1 of 2 are missing\)"):
        videos.frames_at(path, [0.2, 0.3002])


def test_every_episode_whose_frames_are_missing_is_told_at_once(tmp_path: Path) -> None:
    """Of 10 frames episode 1 lacks two and episode 2 all; what is no video, and one that is not there, is told too."""
    pytest.importorskip("av", reason="PyAV is not installed (extra `video`)")
    short = read_examples(str(write_set(tmp_path / "short", frames=10)), base=tmp_path, prefer=("episode",))
    assert [one.code for one in short.findings] == ["data.malformed"] * 2
    assert ["episode 1" in one.where for one in short.findings] == [True, False]
    assert "(2 of 7 are missing)" in short.findings[0].what
    shifted = read_examples(str(write_set(tmp_path / "off", begins={2: 1.25})), base=tmp_path, prefer=("episode",))
    assert ["(12 of 12 are missing)" in one.what for one in shifted.findings] == [True]
    none = read_examples(str(write_set(tmp_path / "none", frames=0)), base=tmp_path, prefer=("episode",))
    assert {one.code for one in none.findings} == {"data.missing"}
    bad = write_set(tmp_path / "bad")
    next(bad.rglob("*.mp4")).write_bytes(b"no video")
    read = read_examples(str(bad), base=tmp_path, prefer=("episode",))
    assert ["is no video that can be decoded" in one.what for one in read.findings] == [True] * 3


def test_without_a_decoder_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(videos, "installed", lambda: False)
    read = read_examples(str(write_set(tmp_path / "set", frames=0)), base=tmp_path, prefer=("episode",))
    assert [(one.code, one.mend) for one in read.findings] == [("data.needs-extra", 'pip install "luthier[video]"')]
