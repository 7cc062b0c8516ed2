"""Passes what happens in a session on to all who want to know."""

from hermes_core.live.asks import Arrival, Intervention
from hermes_core.live.told import RequestEnd, SessionObserver, StageEnd
from hermes_core.serving.llm.client import Stretch


class Hub:
    """Tells several observers, in the order in which they were added. Implements `SessionObserver`."""

    def __init__(self, *observers: SessionObserver) -> None:
        self._observers = list(observers)

    def add(self, observer: SessionObserver) -> None:
        """Let one more be told, from now on."""
        self._observers.append(observer)

    def request_ended(self, end: RequestEnd) -> None:
        """A request has ended."""
        for observer in self._observers:
            observer.request_ended(end)

    def stage_ended(self, end: StageEnd) -> None:
        """A stage job has ended."""
        for observer in self._observers:
            observer.stage_ended(end)

    def stretch_ended(self, stretch: Stretch) -> None:
        """A client has done a stretch of like steps."""
        for observer in self._observers:
            observer.stretch_ended(stretch)

    def came_in(self, what: Arrival | Intervention) -> None:
        """Something has come in from outside."""
        for observer in self._observers:
            observer.came_in(what)
