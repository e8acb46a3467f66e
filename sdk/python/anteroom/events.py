"""What a host learns from its sidecar, besides leases."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from .errors import AnteroomError, Denied
from .lease import Lease


@dataclass(frozen=True)
class Welcome:
    """What the sidecar grants a host."""

    host: int = 0
    pool: str = ""
    capacity: int = 0
    features: List[str] = field(default_factory=list)
    listeners: List[str] = field(default_factory=list)
    keep_alive_timeout_ms: int = 0
    epoch: str = ""

    @classmethod
    def of(cls, payload: Dict[str, Any]) -> "Welcome":
        """From the JSON of WELCOME; members that a later version adds are ignored."""
        return cls(**{name: payload[name] for name in cls.__dataclass_fields__ if payload.get(name) is not None})


@dataclass(frozen=True)
class Attached:
    """The sidecar has welcomed this host."""

    welcome: Welcome


@dataclass(frozen=True)
class Detached:
    """The link has ended, or could not be made; the client tries again ``retry_in`` seconds from now (None: never)."""

    error: AnteroomError
    retry_in: Optional[float]


@dataclass(frozen=True)
class Forgotten:
    """A connection is no longer this host's. Close the descriptor held of it, without shutdown.

    ``lease`` is set if it was leased: the lease has been taken back.
    """

    conn: int
    reason: int
    lease: Optional[Lease]


@dataclass(frozen=True)
class OutOfDescriptors:
    """The process had no room for the descriptor of a lease of this connection, which the client has given back (NACK).

    ``dropped`` is how many idle connections ``Client.make_room`` has dropped for it.
    """

    conn: int
    dropped: int

    def __str__(self) -> str:
        return (
            f"This process is out of descriptors: a lease was given back, {self.dropped} idle connections were dropped. "
            "Raise the limit of open files (ulimit -n), or keep fewer idle connections (cache)."
        )


@dataclass(frozen=True)
class Adopted:
    """The connection of ``adopt`` is now managed, under this id."""

    tag: int
    conn: int


@dataclass(frozen=True)
class Listening:
    """The sidecar accepts on the listening socket of ``listen``."""

    tag: int
    listener: int


@dataclass(frozen=True)
class Unlistened:
    """The sidecar has closed its copy of a listening socket."""

    listener: int


@dataclass(frozen=True)
class Turned:
    """The sidecar denied what was asked under ``tag``."""

    tag: int
    error: Denied


@dataclass(frozen=True)
class Draining:
    """The sidecar asks this host to finish and leave; or, answering ``drain``, says how many leases are still out."""

    held: int
