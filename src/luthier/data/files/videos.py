"""Frames of a video by their times, as LeRobot takes them: the nearest to each time, and none that is further away than
its tolerance of 1e-4 s (`decode_video_frames`). PyAV decodes, where it is installed (extra `video`).
"""

from __future__ import annotations

import io
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TOLERANCE, EARLIER = 1e-4, 1.0
"""Seconds. A key frame is found by when it is decoded, which may be before it is shown: the search begins earlier."""


class NoFrames(ValueError):
    """A video without the frames that were asked for; its text says why."""


def installed() -> bool:
    return find_spec("av") is not None


def frames_at(path: Path, times: Sequence[float]) -> list[bytes]:
    """PNG files of the frames at ``times`` (seconds from the start of the video, ascending). Raises NoFrames.

    Decoded are the frames from the key frame before the first of these times to the last of them, so a file that holds
    many episodes is not decoded again for each.
    """
    import av

    kept: dict[float, tuple[float, bytes]] = {}
    shown: list[float] = []
    try:
        with av.open(str(path)) as video:
            stream = video.streams.video[0]
            unit = float(stream.time_base or 0)
            video.seek(int(max(0.0, times[0] - EARLIER) / unit), stream=stream)
            for frame in video.decode(stream):
                if frame.pts is None:
                    continue
                shown.append(now := frame.pts * unit)
                near = times[bisect_left(times, now - TOLERANCE) : bisect_right(times, now + TOLERANCE)]
                near = [time for time in near if time not in kept or abs(now - time) < kept[time][0]]
                if near:
                    png = _png(frame)
                    kept |= {time: (abs(now - time), png) for time in near}
                if now >= times[-1]:
                    break
    except (OSError, ValueError, IndexError, ZeroDivisionError) as error:  # what PyAV raises is one of the first two
        raise NoFrames(f"is no video that can be decoded ({error})") from None
    missing = [time for time in times if time not in kept]
    if missing:
        seen = f"{len(shown)} from {shown[0]:.4f} to {shown[-1]:.4f} s" if shown else "none"
        what = f"no frame within {TOLERANCE} s of {missing[0]:.4f} s ({len(missing)} of {len(times)} are missing)"
        raise NoFrames(f"has {what}; decoded were {seen}")
    return [kept[time][1] for time in times]


def _png(frame: Any) -> bytes:
    held = io.BytesIO()
    frame.to_image().save(held, "PNG", compress_level=1)
    return held.getvalue()
