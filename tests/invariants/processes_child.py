"""Runs in each process of a launched group: the recipes named, one after the other; the last one is stopped half-way.

``processes_child.py FOLDER... STOPPED``: the recipe of each folder is tuned. In STOPPED the last process alone gets a
SIGTERM in step 3; then the same recipe goes on.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any
from unittest import mock

import luthier
from luthier.engine import fit
from luthier.engine.parallel import Processes
from luthier.engine.plan import Progress


def stopped_in_step_3(folder: str) -> None:
    processes, record = Processes(), fit._record

    def signalled(progress: Progress, *rest: Any) -> dict[str, Any]:
        if progress.step == 3 and processes.rank == processes.world - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return record(progress, *rest)

    os.chdir(folder)
    with mock.patch.object(fit, "_record", signalled):
        assert not luthier.tune("recipe.yaml").finished
    assert luthier.tune("recipe.yaml").finished


def main() -> None:
    *folders, stopped = sys.argv[1:]
    for folder in folders:
        os.chdir(folder)
        assert luthier.tune("recipe.yaml").finished
    stopped_in_step_3(stopped)


if __name__ == "__main__":
    main()
