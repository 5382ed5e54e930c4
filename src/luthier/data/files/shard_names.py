"""Several files by one name: ``shards/*.tar``, or as WebDataset writes them ``shard-{000000..000127}.tar``."""

from __future__ import annotations

import re
from pathlib import Path

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
MOST = 100_000


def shard_names(path: str, base: Path) -> list[str]:
    """The files that a name with ``*`` or a range stands for, in order, as a name is written; none for any other.

    Those of a range need not be there: what reads them tells which are not.
    """
    if (found := RANGE.search(path)) is not None:
        first, last = found.groups()
        numbers = range(int(first), min(int(last), int(first) + MOST) + 1)
        one_each = [f"{path[: found.start()]}{number:0{len(first)}d}{path[found.end() :]}" for number in numbers]
        return [name for one in one_each for name in (shard_names(one, base) or [one])]
    if "*" not in path:
        return []
    target = base / Path(path).expanduser()
    at = next(n for n, part in enumerate(target.parts) if "*" in part)
    root = Path(*target.parts[:at])
    matched = sorted(one for one in root.glob(str(Path(*target.parts[at:]))) if one.is_file())
    written = Path(path).parts[: len(Path(path).parts) - (len(target.parts) - at)]
    return [str(Path(*written, one.relative_to(root))) for one in matched]
