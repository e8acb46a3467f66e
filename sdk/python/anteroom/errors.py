"""What can go wrong between a host and its sidecar. Each message says what to do about it."""

from . import frame


class AnteroomError(Exception):
    """The base of all errors of this package."""


class Unreachable(AnteroomError):
    """There is no way to the sidecar just now."""


class SocketMissing(Unreachable):
    """The handoff socket does not exist."""


class NobodyListens(Unreachable):
    """The handoff socket exists, but no sidecar is behind it, or it is too busy to answer."""


class NoPermission(Unreachable):
    """This process may not open the handoff socket."""


class LinkLost(AnteroomError):
    """The link to the sidecar has ended. What was leased may be finished, but not put."""


class HungUp(LinkLost):
    """The sidecar has hung up. What it said before can still be read, and may be the reason."""


class ProtocolError(LinkLost):
    """The sidecar said something that the protocol does not allow."""


class _Answered(AnteroomError):
    """The sidecar gave a code and a sentence."""

    def __init__(self, code: int, reason: str, hint: str = "") -> None:
        super().__init__(f"{frame.code_name(code)}: {reason.rstrip('.')}" + (f" ({hint})" if hint else "") + ".")
        self.code = code
        self.reason = reason


class Refused(_Answered, LinkLost):
    """The sidecar did not accept this host."""


class Ended(_Answered, LinkLost):
    """The sidecar ended the link because of something this host did, or because it is stopping."""


class Denied(_Answered):
    """The sidecar could not adopt that connection, or take or leave that listening socket. The link goes on."""


def unreachable(path: str, why: OSError) -> Unreachable:
    """Say what an OSError of connect(2) to the handoff socket means."""
    if isinstance(why, FileNotFoundError):
        return SocketMissing(
            f"There is no handoff socket at {path}. Start the sidecar (anteroom serve --handoff {path}), "
            "or name the right path in ANTEROOM_HANDOFF."
        )
    if isinstance(why, PermissionError):
        return NoPermission(
            f"This process may not open the handoff socket {path}. Name its user in the sidecar's option handoff-allow-uid, or its group in "
            "handoff-allow-gid. If it is named there, the mode of the socket or of a folder above it is in the way."
        )
    if isinstance(why, (ConnectionRefusedError, BlockingIOError)):
        return NobodyListens(f"Nobody answers at the handoff socket {path}. Is the sidecar running?")
    return Unreachable(f"Cannot connect to the handoff socket {path}: {why}")


def refused(code: int, reason: str) -> Refused:
    """What a REFUSE frame means."""
    return Refused(code, reason, _REFUSAL_HINTS.get(code, ""))


_REFUSAL_HINTS = {
    frame.Code.BAD_VERSION: "use the same release of the sidecar and of this package",
    frame.Code.AT_LIMIT: "the sidecar has as many hosts or pools as it may; stop one, or raise its limit",
    frame.Code.STOPPING: "the sidecar is stopping; its successor will answer",
}
