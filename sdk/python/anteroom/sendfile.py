"""Responses that are files: ``wsgi.file_wrapper``, and the header X-Sendfile."""

import errno
import os
import stat
from typing import IO, Any, Callable, Iterable, Iterator, List, Optional, Tuple

BLOCK = 65536
"""Bytes read at once where a file has to go through this process."""

ROOT_VARIABLE = "ANTEROOM_SENDFILE_ROOT"

Headers = List[Tuple[str, str]]

_BODILESS = ("1", "204", "304")
_REPLACED = ("x-sendfile", "content-length", "transfer-encoding")


class FileWrapper:
    """What ``wsgi.file_wrapper`` makes of a file (PEP 3333). A server that can sends the file itself; iterated over, it is the file's blocks."""

    def __init__(self, file: IO[bytes], block: int = BLOCK) -> None:
        self.file = file
        self._block = block

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.file.read(self._block), b"")

    def close(self) -> None:
        close = getattr(self.file, "close", None)
        if close is not None:
            close()

    def part(self, length: Optional[int]) -> Optional[Tuple[int, int]]:
        """Offset and length of what is to be sent: from where the file stands, as much as there is, or ``length``, if it has that. None if
        it is no regular file."""
        try:
            status = os.fstat(self.file.fileno())
            offset = self.file.tell()
        except (AttributeError, OSError):
            return None
        left = status.st_size - offset
        if not stat.S_ISREG(status.st_mode) or left < (length or 0):
            return None
        return offset, left if length is None else length


def content_length(headers: Headers) -> Optional[int]:
    for name, value in headers:
        if name.lower() == "content-length":
            return int(value)
    return None


def wants_close(headers: Headers) -> bool:
    return any(name.lower() == "connection" and value.lower() == "close" for name, value in headers)


def has_body(method: str, status: str) -> bool:
    return method != "HEAD" and not status.startswith(_BODILESS)


class SendFile:
    """WSGI middleware: a response with the header ``X-Sendfile: path`` becomes that file. Its body is dropped, Content-Length is the file's, and its
    other headers stay.

    A relative path begins at ``root``. The file must lie within ``root`` once all symbolic links are resolved, else the client gets a 500; if there is none, a 404. Either is
    said in ``wsgi.errors``. For the outermost middleware, whose ``wsgi.file_wrapper`` is the server's.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]], root: str) -> None:
        """Raises ValueError if ``root`` is no directory."""
        self._app = app
        self._root = check_root(root)

    def __call__(self, environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
        answer = _Answer(self._root, environ, start_response)
        body = self._app(environ, answer.start)
        if answer.started:
            return answer.of(body)
        blocks = iter(body)
        first = next(blocks, b"")  # a generator; now it has called start_response
        return answer.of(_Again(first, blocks, body))


class _Answer:
    """One response on its way out."""

    def __init__(self, root: str, environ: Any, start_response: Callable[..., Any]) -> None:
        self.started = False
        self._root = root
        self._environ = environ
        self._start_response = start_response
        self._instead: Optional[Iterable[bytes]] = None

    def start(self, status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], Any]:
        self.started = True
        path = next((value for name, value in headers if name.lower() == "x-sendfile"), None)
        if path is None:
            return self._start_response(status, headers, *([exc_info] if exc_info else []))
        status, headers = self._replace(path, status, headers)
        self._start_response(status, headers, *([exc_info] if exc_info else []))
        return lambda data: None

    def of(self, body: Any) -> Iterable[bytes]:
        """What to send instead of the app's ``body``."""
        if self._instead is None:
            return body
        close = getattr(body, "close", None)
        if close is not None:
            close()
        return self._instead

    def _replace(self, path: str, status: str, headers: Headers) -> Tuple[str, Headers]:
        try:
            file = open_within(self._root, path)
        except (OSError, ValueError) as why:  # ValueError: what cannot be a path
            print(f"Anteroom: X-Sendfile: {why}", file=self._environ["wsgi.errors"])
            return self._fail("404 Not Found" if isinstance(why, (FileNotFoundError, NotADirectoryError)) else "500 Internal Server Error")
        kept = [(name, value) for name, value in headers if name.lower() not in _REPLACED]
        kept.append(("Content-Length", str(os.fstat(file.fileno()).st_size)))
        if has_body(self._environ["REQUEST_METHOD"], status):
            self._instead = self._environ.get("wsgi.file_wrapper", FileWrapper)(file)
        else:
            file.close()
            self._instead = []
        return status, kept

    def _fail(self, status: str) -> Tuple[str, Headers]:
        body = f"{status}\n".encode()
        self._instead = [body] if has_body(self._environ["REQUEST_METHOD"], status) else []
        return status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]


class _Again:
    """An iterable whose first block has been asked for already."""

    def __init__(self, first: bytes, blocks: Iterator[bytes], body: Any) -> None:
        self._first = first
        self._blocks = blocks
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        yield self._first
        yield from self._blocks

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


def check_root(root: str) -> str:
    """The directory as the kernel calls it. Raises ValueError if it is none."""
    if not os.path.isdir(root):
        raise ValueError(f"sendfile_root is {root!r}, which is no directory")
    return os.path.realpath(root)


def open_within(root: str, path: str) -> IO[bytes]:
    """Open a regular file within ``root``, which check_root has resolved. Raises OSError, or ValueError for what cannot be a path."""
    name = os.path.realpath(os.path.join(root, os.fsdecode(path.encode("latin-1"))))
    _check_within(root, name)
    file = open(name, "rb", buffering=0, opener=_open_itself)
    try:
        _check_within(root, os.readlink(f"/proc/self/fd/{file.fileno()}"))  # a directory on the way may have changed meanwhile
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "no regular file", name)
    except BaseException:
        file.close()
        raise
    return file


def _open_itself(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)  # not waiting for who writes to a FIFO


def _check_within(root: str, name: str) -> None:
    if os.path.commonpath([root, name]) != root:
        raise PermissionError(errno.EACCES, f"not within {root}", name)
