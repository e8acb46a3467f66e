"""How long to wait before the next attempt."""

import random


class Backoff:
    """Delays that double from ``first`` to ``most`` seconds. Each is shortened by up to a half, at random, so that hosts which lost
    their sidecar together do not come back together.
    """

    def __init__(self, first: float = 0.05, most: float = 2.0) -> None:
        self._first = first
        self._most = most
        self._next = first

    def delay(self) -> float:
        now, self._next = self._next, min(2 * self._next, self._most)
        return now * random.uniform(0.5, 1)

    def reset(self) -> None:
        self._next = self._first
