"""Says once what stands between a host and its sidecar, and once that it is over."""

import logging
from typing import Any, Set, Type

from .errors import AnteroomError
from .events import Attached, Detached, OutOfDescriptors, Turned


class Complaints:
    """Hears a client's events. A host that waits for its sidecar in silence would look as if it worked."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._said: Set[Type[AnteroomError]] = set()
        self._short = False  # whether it was said that descriptors have run out

    def hear(self, event: Any) -> None:
        if isinstance(event, Attached):
            if self._said:
                self._logger.info("Attached to the sidecar.")
            self._said.clear()
        elif isinstance(event, Turned) or (isinstance(event, Detached) and event.retry_in is not None):
            self._complain(event.error)
        elif isinstance(event, OutOfDescriptors) and not self._short:
            self._short = True
            self._logger.warning("%s", event)

    def _complain(self, error: AnteroomError) -> None:
        if type(error) not in self._said:
            self._said.add(type(error))
            self._logger.warning("%s Trying again until it works.", error)
