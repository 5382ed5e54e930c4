"""What can happen to a run from outside: signals that ask it to stop, and memory that runs out."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch


@dataclass
class Stop:
    """Set by SIGTERM or SIGINT: the loop saves after the step in hand and exits. A second signal ends at once."""

    signal: str = ""

    def __bool__(self) -> bool:
        return bool(self.signal)


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread alone
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop:
            raise KeyboardInterrupt
        stop.signal = signal.Signals(number).name

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or in the CPU allocator."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)


def peak_memory_mb(device: torch.device) -> int:
    """The most memory that this process has held: on the GPU where it trains there, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 2**20 if sys.platform == "darwin" else peak // 2**10
