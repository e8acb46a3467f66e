"""``python -m anteroom``: serve a WSGI or ASGI app behind the sidecar."""

import argparse
import functools
import importlib
import inspect
import logging
import os
import sys
from typing import Any, Callable, Dict, List, Optional

from . import prefork
from ._version import __version__
from .client import (
    CAPACITY_VARIABLE,
    DEFAULT_POOL,
    NAME_VARIABLE,
    POOL_VARIABLE,
    check_name,
    environment_capacity,
    parse_capacity,
)

_KINDS = ("wsgi", "asgi")
_EPILOG = """\
signals: TERM, INT finish what is held and leave (twice: at once); HUP new workers, one by one, with the app as it is on disk now;
TTIN, TTOU one worker more, one less. Exit status: 0, 2 for wrong arguments, 3 if there is no such app, or an option is not for its kind."""


def main(arguments: Optional[List[str]] = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] not in _KINDS and not arguments[0].startswith("-"):
        arguments = ["auto", *arguments]
    options = _parse(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    logging.getLogger("anteroom.access").disabled = not options.access_log
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return prefork.run(functools.partial(_work, options), options.workers, options.grace)


def _parse(arguments: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m anteroom", description="Serve a Python app behind the Anteroom sidecar.", epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"anteroom {__version__}")
    kinds = parser.add_subparsers(metavar="[wsgi | asgi]", dest="kind", required=True, help="if left out, found by looking at the app")
    common = _common()
    wsgi = kinds.add_parser("wsgi", parents=[common], help="a WSGI app", epilog=_EPILOG)
    asgi = kinds.add_parser("asgi", parents=[common], help="an ASGI app; needs uvicorn", epilog=_EPILOG)
    either = kinds.add_parser("auto", parents=[common], epilog=_EPILOG)
    for each in (wsgi, either):
        _add_wsgi_options(each)
    for each in (asgi, either):
        _add_asgi_options(each)
    return parser.parse_args(arguments)


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    add = functools.partial(_add, common)
    add("app", help="module:attribute, or module:factory()")
    add("--workers", _natural, 1, "N", "processes; 0: serve in this one, without a master; default 1")
    add("--handoff", str, None, "PATH", "the sidecar's handoff socket; default: ANTEROOM_HANDOFF, else /run/anteroom/handoff.sock")
    add("--pool", functools.partial(check_name, what="pool"), os.environ.get(POOL_VARIABLE) or DEFAULT_POOL, "POOL", f"the pool to serve; default: {POOL_VARIABLE}, else {DEFAULT_POOL}")
    add("--name", _name, None, "NAME", f"what operators see; default: {NAME_VARIABLE}, else by the process id")
    add("--grace", _seconds, prefork.GRACE, "S", "seconds a worker may take to leave; default 30")
    common.add_argument("--access-log", action="store_true", help="a line for each request, on stderr")
    return common


def _add_wsgi_options(parser: argparse.ArgumentParser) -> None:
    add = functools.partial(_add, parser)
    add("--threads", functools.partial(_capacity, 4), "", "N", f"threads of each worker (WSGI); default: {CAPACITY_VARIABLE}, else 4")
    add("--timeout", _seconds, 30.0, "S", "seconds within which a client must send or take more (WSGI); default 30")
    add("--keep-alive", _seconds, 0.0, "S", "seconds an idle connection is kept (WSGI); default: the pool's time")


def _add_asgi_options(parser: argparse.ArgumentParser) -> None:
    add = functools.partial(_add, parser)
    add("--capacity", functools.partial(_capacity, 100), "", "N", f"requests at once of each worker (ASGI); default: {CAPACITY_VARIABLE}, else 100")
    add("--cache", _natural, 256, "N", "idle connections each worker keeps (ASGI); default 256")
    choices = {
        "--http": ("auto", "h11", "httptools"),
        "--ws": ("auto", "none", "websockets", "wsproto"),
        "--loop": ("auto", "asyncio", "uvloop"),
        "--lifespan": ("auto", "on", "off"),
    }
    for name, words in choices.items():
        parser.add_argument(name, default="auto", choices=words, help="as in uvicorn (ASGI)")


def _add(parser: argparse.ArgumentParser, name: str, type_: Any = str, default: Any = None, metavar: Optional[str] = None, help: str = "") -> None:
    parser.add_argument(name, type=_explained(type_), default=default, metavar=metavar, help=help)


def _explained(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """So that argparse says what is wrong: it shows no ValueError's message."""

    def explained(text: str) -> Any:
        try:
            return convert(text)
        except ValueError as why:
            raise argparse.ArgumentTypeError(str(why)) from why

    return explained


def _work(options: argparse.Namespace, supervision: prefork.Supervision) -> None:
    try:
        app = load(options.app)
    except Exception as why:
        raise prefork.Unusable(f"The app {options.app} cannot be loaded: {why}") from why
    kind = options.kind
    if kind == "auto":
        kind = kind_of(app)
        _refuse_options_of_the_other_kind(options, kind)
    attachment = {"path": options.handoff, "pool": options.pool, "name": options.name}
    if kind == "wsgi":
        _work_wsgi(options, app, attachment, supervision)
    else:
        _work_asgi(options, app, attachment, supervision)


def _refuse_options_of_the_other_kind(options: argparse.Namespace, kind: str) -> None:
    """Raises Unusable for an option that the other kind of app has and this one has not."""
    known, unset = (vars(_parse([each, options.app])) for each in (kind, "auto"))
    for name, value in vars(options).items():
        if name not in known and value != unset[name]:
            raise prefork.Unusable(f"The app {options.app} is {kind.upper()}, which has no option --{name.replace('_', '-')}.")


def _work_wsgi(options: argparse.Namespace, app: Any, attachment: Dict[str, Any], supervision: prefork.Supervision) -> None:
    from . import wsgi

    attachment["name"] = attachment["name"] or os.environ.get(NAME_VARIABLE) or f"wsgi-{os.getpid()}"
    settings = wsgi.Settings(options.threads, options.timeout, options.keep_alive, multiprocess=options.workers > 1)
    wsgi.work(app, attachment, settings, supervision)


def _work_asgi(options: argparse.Namespace, app: Any, attachment: Dict[str, Any], supervision: prefork.Supervision) -> None:
    try:
        from . import asgi
    except ImportError as why:
        raise prefork.Unusable(str(why)) from why
    settings = {"http": options.http, "ws": options.ws, "loop": options.loop, "lifespan": options.lifespan, "access_log": options.access_log}
    asgi.work(app, {**attachment, "capacity": options.capacity, "cache": options.cache}, settings, supervision)


def load(name: str) -> Any:
    """The app that ``module:attribute`` names, or that ``module:factory()`` makes. Raises ValueError, and whatever the module raises."""
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise ValueError("write module:attribute, for example hello:app")
    app = importlib.import_module(module_name)
    path, call, _ = attribute.partition("()")
    for part in path.split("."):
        app = getattr(app, part)
    return app() if call else app


def kind_of(app: Callable[..., Any]) -> str:
    """Whether it is a WSGI or an ASGI app. Raises Unusable if it does not look like either."""
    if not callable(app):
        raise prefork.Unusable(f"The app is {app!r}, which cannot be called.")
    if inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(app, "__call__", None)):
        return "asgi"
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):
        parameters = ()
    needed = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) and each.default is each.empty]
    if len(needed) in (2, 3):
        return "wsgi" if len(needed) == 2 else "asgi"
    raise prefork.Unusable("The app looks neither like WSGI nor like ASGI; say which: python -m anteroom wsgi … or asgi …")


def _capacity(default: int, text: str) -> int:
    """``text`` is empty where there is no such argument, so that argparse explains what is wrong with the environment, too."""
    return parse_capacity(text, "the capacity") if text else environment_capacity() or default


def _name(text: str) -> str:
    return check_name(text, "name")


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(f"{text} must be 0 or more")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 604800:
        raise ValueError(f"{text} must be from 0 to less than a week, in seconds")
    return value


if __name__ == "__main__":
    sys.exit(main())
