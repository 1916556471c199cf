"""The bar that put, get and unmount --flush show on a terminal, and nowhere else."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

from dfsfuse.tables import shown

_LOOK_S = 0.1


class Progress:
    """Counts bytes of all files of one command. `total` is asked only where somebody can see the bar."""

    def __init__(self, total: Callable[[], int]):
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total(), unit="B", unit_scale=True, unit_divisor=1024, dynamic_ncols=True)
        self.is_shown = self._bar is not None

    def name(self, name: str | bytes) -> None:
        """What is being copied now."""
        if self._bar is not None:
            self._bar.set_description(shown(name))

    def advance(self, count: float) -> None:
        if self._bar is not None:
            self._bar.update(count)

    @contextlib.contextmanager
    def follow(self, size: int, sent_bytes: Callable[[], int]) -> Iterator[None]:
        """Within the block `sent_bytes` grows by about `size`, and the bar with it, by half as much in all: the other
        half of a byte's way is into the local cache."""
        if self._bar is None:
            yield
            return
        ended, start, done = threading.Event(), sent_bytes(), 0.0

        def look() -> None:
            nonlocal done
            while not ended.wait(_LOOK_S):
                now = min(size, sent_bytes() - start) / 2
                self.advance(now - done)
                done = now

        thread = threading.Thread(target=look, name="progress", daemon=True)
        thread.start()
        try:
            yield
            finished = True
        except BaseException:
            finished = False
            raise
        finally:
            ended.set()
            thread.join()
            self.advance(size / 2 - done if finished else 0)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
