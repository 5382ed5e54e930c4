"""What the C library's heap holds beyond what is in use, replayed on a run's allocations.

The rules are glibc's (malloc/malloc.c): a request is served from the smallest free block that is large enough, else
from the heap's end, which grows; one of at least the mmap threshold for which no block is free gets pages of its own,
which go back when it is released. The threshold starts at 128 kB and rises to the size of each such block released, up
to 32 MB. Free blocks inside the heap stay resident; its end is taken never to go back, as small objects lie there.

torch asks for addresses that are multiples of 64, so each block leaves slivers of up to 112 bytes beside it. Small
objects (tensors' headers, nodes of the autograd graph) move into these and live as long as their tensor: neighbours of
a released block are then taken, and free space falls to pieces. How many slivers wait (``WAITING``) and how many small
objects come with a tensor (``SMALL``; none where no graph is kept) were fitted to the heaps of eight measured runs: see
benchmarks/plan_error.py for what became of it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

FIRST_THRESHOLD, LAST_THRESHOLD = 128 * 2**10, 32 * 2**20
HEADER, ALIGN, SLACK, SLIVER = 16, 64, 96, 112
WAITING, SMALL = 100, 2


class Heap:
    """Addresses are offsets in the heap. ``resident`` is what the heap and the separate pages hold, in bytes."""

    def __init__(self) -> None:
        self.end = 0
        self.mapped = 0
        self.threshold = FIRST_THRESHOLD
        self._free: list[tuple[int, int]] = []  # (size, start), sorted
        self._by_start: dict[int, int] = {}  # start: size
        self._by_end: dict[int, int] = {}  # end: start
        self._held: dict[int, tuple[int, int]] = {}  # number: (start or -1, size)
        self._slivers: deque[tuple[int, int]] = deque()
        self._beside: dict[int, list[tuple[int, int]]] = {}

    @property
    def resident(self) -> int:
        return self.end + self.mapped

    def take(self, number: int, size: int, small: int = SMALL) -> None:
        """``small``: how many small objects come with it; with none its slivers do not wait for any."""
        block = max(32, (size + HEADER + 7) // 16 * 16)
        wanted = block + SLACK
        at = bisect_left(self._free, (wanted, -1))
        if at < len(self._free):
            length, start = self._free[at]
            self._remove(length, start)
        elif wanted >= self.threshold:
            self.map(number, size)
            return
        else:
            start, length = self._grow(wanted)
        lead = -(start + HEADER) % ALIGN
        lead += ALIGN if 0 < lead < 32 else 0
        self._held[number] = (start + lead, block)
        put = self._put if small else self._join
        put(lead, start)
        put(length - lead - block, start + lead + block)
        self._beside[number] = [self._slivers.pop() for _ in range(min(small, len(self._slivers)))]

    def map(self, number: int, size: int) -> None:
        """Pages of its own."""
        self._held[number] = (-1, size)
        self.mapped += size

    def release(self, number: int) -> None:
        start, size = self._held.pop(number)
        if start < 0:
            self.mapped -= size
            if self.threshold < size <= LAST_THRESHOLD:
                self.threshold = size
            return
        self._put(size, start)
        self._slivers.extend(self._beside.pop(number))
        self._settle()

    def _grow(self, size: int) -> tuple[int, int]:
        """A block at the heap's end; what is free there is used too."""
        start = self.end
        if start in self._by_end:
            start = self._by_end[start]
            self._remove(self.end - start, start)
        self.end = max(self.end, start + size)
        return start, self.end - start

    def _put(self, length: int, start: int) -> None:
        """Make a stretch free: a sliver waits for a small object, anything longer joins its free neighbours."""
        if 0 < length <= SLIVER:
            self._slivers.append((length, start))
            self._settle()
        else:
            self._join(length, start)

    def _settle(self) -> None:
        while len(self._slivers) > WAITING:
            self._join(*self._slivers.popleft())

    def _join(self, length: int, start: int) -> None:
        if length <= 0:
            return
        end = start + length
        if end in self._by_start:
            after = self._by_start[end]
            self._remove(after, end)
            end += after
        if start in self._by_end:
            before = self._by_end[start]
            self._remove(start - before, before)
            start = before
        insort(self._free, (end - start, start))
        self._by_start[start], self._by_end[end] = end - start, start

    def _remove(self, length: int, start: int) -> None:
        del self._free[bisect_left(self._free, (length, start))]
        del self._by_start[start], self._by_end[start + length]
