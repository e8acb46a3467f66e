"""Anteroom for Python: serve requests on connections that a sidecar keeps.

``anteroom.cheroot`` puts a cheroot or CherryPy server behind the sidecar; ``Client`` is for writing a host of your own.
"""

from ._version import __version__
from .client import Client, Listener
from .errors import (
    AnteroomError,
    Denied,
    Ended,
    LinkLost,
    NobodyListens,
    NoPermission,
    ProtocolError,
    Refused,
    SocketMissing,
    Unreachable,
)
from .events import Adopted, Attached, Detached, Draining, Forgotten, Listening, OutOfDescriptors, Turned, Unlistened, Welcome
from .frame import CloseReason, Code, ForgetReason, NackReason
from .lease import Lease

__all__ = [
    "Adopted",
    "AnteroomError",
    "Attached",
    "Client",
    "CloseReason",
    "Code",
    "Denied",
    "Detached",
    "Draining",
    "Ended",
    "ForgetReason",
    "Forgotten",
    "Lease",
    "LinkLost",
    "Listener",
    "Listening",
    "NackReason",
    "NoPermission",
    "NobodyListens",
    "OutOfDescriptors",
    "ProtocolError",
    "Refused",
    "SocketMissing",
    "Turned",
    "Unlistened",
    "Unreachable",
    "Welcome",
    "__version__",
]
