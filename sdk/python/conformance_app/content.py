"""What both apps send: the bytes of /bytes, and numbers out of query strings."""

from typing import Iterator, Optional
from urllib.parse import parse_qs

LARGEST = 100_000_000
_PERIOD = bytes(range(ord("a"), ord("z") + 1)) * 2520  # 64 kB


def number(query: str, name: str) -> Optional[int]:
    """The number that the query gives for ``name``, None if it gives none between 0 and LARGEST."""
    values = parse_qs(query).get(name, [])
    if len(values) != 1 or not (values[0].isascii() and values[0].isdigit()):
        return None
    value = int(values[0][:12])
    return value if value <= LARGEST else None


def letters(count: int) -> Iterator[bytes]:
    """``count`` bytes in pieces; byte i is 'a' + i % 26."""
    for start in range(0, count, len(_PERIOD)):
        yield _PERIOD[: count - start]
