# SPDX-License-Identifier: AGPL-3.0-or-later
"""The progress of what takes longer than a second: reports to the program, and a line on its terminal."""

from __future__ import annotations

import contextlib
import html
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TextIO

from ._native import core
from ._settings import switch

if TYPE_CHECKING:
    from ._gateway import Gateway
    from ._session import Session

log = logging.getLogger("remora")

_AFTER_SECONDS = 1.0
_EVERY_SECONDS = 0.25
_JOIN_SECONDS = 2.0
_BAR = 20
_WIDTH = 100

# What counts as a transfer: mostly bytes. A training's batches are many operations with few bytes each.
_FEWEST_BYTES = 1 << 20
_BYTES_PER_OPERATION = 64 << 10


@dataclass(frozen=True)
class Progress:
    """How far an activity of a machine is.

    Attributes:
        machine: the machine's name.
        activity: what is done: ``"open"``, ``"load model"``, ``"pause"`` …
        done: how much is done, in `unit`.
        total: how much there is to do; 0 if it is not known.
        unit: ``"bytes"``, ``"batches"`` …; empty if only the time is known.
        message: the present step, such as the provider's last line of news; may be empty.
        elapsed: seconds since the activity began.
        ended: whether this is the activity's last report.

    """

    machine: str
    activity: str
    done: int = 0
    total: int = 0
    unit: str = ""
    message: str = ""
    elapsed: float = 0.0
    ended: bool = False

    @property
    def fraction(self) -> float | None:
        """The part that is done, 0 to 1; None if the total is not known."""
        return None if self.total <= 0 else min(1.0, max(0.0, self.done / self.total))

    def __str__(self) -> str:
        """Returns the report as one line."""
        parts = [f"{self.machine}: {self.activity}"]
        fraction = self.fraction
        if fraction is not None:
            parts[0] += f" {int(fraction * 100)}%"
        amount = self._amount()
        if amount:
            parts.append(amount)
        parts.append(f"{int(self.elapsed)} s")
        step = self.message.partition("\n")[0]
        return ", ".join(parts) + (f": {step}" if step else "")

    def _amount(self) -> str:
        if not self.unit or (self.done <= 0 and self.total <= 0):
            return ""
        if self.unit == "bytes":
            return format_bytes(self.done) + (
                f" of {format_bytes(self.total)}" if self.total > 0 else ""
            )
        return f"{self.done}{f' of {self.total}' if self.total > 0 else ''} {self.unit}"


def format_bytes(number: float) -> str:
    """Returns a number of bytes for people; a GB is 10^9 bytes."""
    for name, scale in (("GB", 1e9), ("MB", 1e6)):
        if number >= scale:
            return f"{number / scale:.1f} {name}"
    return f"{number / 1e3:.1f} kB"


Listener = Callable[[Progress], None]


class Activity:
    """Something that may take longer than a moment. Thread-safe."""

    def __init__(self, name: str, unit: str) -> None:
        """Begins now."""
        self.name = name
        self.ended = False
        self.reported = False
        self._unit = unit
        self._begin = time.monotonic()
        self._figures = (0, 0)
        self._message = ""

    def set(self, done: int, total: int) -> None:
        """Sets how much is done, and how much there is to do; 0 if that is not known."""
        self._figures = (done, total)

    def message(self, step: str) -> None:
        """Sets the present step."""
        self._message = step

    def elapsed(self) -> float:
        """Returns the seconds since the activity began."""
        return time.monotonic() - self._begin

    def progress(self, machine: str) -> Progress:
        """Returns a report."""
        done, total = self._figures
        return Progress(
            machine,
            self.name,
            done,
            total,
            self._unit,
            self._message,
            self.elapsed(),
            self.ended,
        )


class Reporter:
    """Tells the listeners of one machine what it does, with a thread of its own. Thread-safe."""

    def __init__(self, machine: str, listeners: list[Listener]) -> None:
        """Begins to report to these listeners."""
        self._machine = machine
        self._listeners = listeners
        self._telling = threading.RLock()
        self._running: list[Activity] = []
        self._shown: dict[str, Progress] = {}
        self._transfers: _Transfers | None = None
        self._call: Any = None
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._report, name=f"remora-progress-{machine}", daemon=True
        )
        self._thread.start()

    def begin(self, name: str, unit: str = "") -> Activity:
        """Begins an activity."""
        begun = Activity(name, unit)
        self._running.append(begun)
        return begun

    def follow(self, gateway: Gateway) -> None:
        """Passes on the gateway's reports, from now on."""
        self._call = gateway.progress(self._machine)
        threading.Thread(
            target=self._pass_on,
            args=(self._call,),
            name=f"remora-progress-of-gateway-{self._machine}",
            daemon=True,
        ).start()

    def _pass_on(self, reports: Any) -> None:
        try:
            for line in reports:
                if line.HasField("progress"):
                    report = line.progress
                    self._tell(
                        Progress(
                            self._machine,
                            report.activity,
                            report.done,
                            report.total,
                            report.unit,
                            report.message,
                            report.elapsed_millis / 1000,
                            report.ended,
                        )
                    )
        except Exception as e:  # the call was cancelled, or the gateway is gone: others report that
            log.debug("Machine '%s': no more reports of the gateway: %s", self._machine, e)

    def watch(self, session: Session) -> None:
        """Reports this session's large transfers, too."""
        with self._telling:
            self._transfers = _Transfers(self, session)

    def unwatch(self) -> None:
        """Returns when the session is no longer used."""
        with self._telling:
            if self._transfers is not None:
                self._transfers.end()
                self._transfers = None

    def close(self) -> None:
        """Ends the reports. Activities that were reported and still run count as ended. Idempotent."""
        self._closed.set()
        if self._call is not None:
            self._call.cancel()
        if self._thread is not threading.current_thread():
            self._thread.join(_JOIN_SECONDS)
        with self._telling:
            for report in list(self._shown.values()):
                self._tell(replace(report, ended=True))
            self._listeners = []

    def _report(self) -> None:
        while not self._closed.wait(_EVERY_SECONDS):
            with self._telling:
                if self._transfers is not None:
                    self._transfers.look()
                for activity in list(self._running):
                    if activity.ended:
                        self._running.remove(activity)
                    if activity.reported or (
                        not activity.ended and activity.elapsed() >= _AFTER_SECONDS
                    ):
                        activity.reported = True
                        self._tell(activity.progress(self._machine))

    def _tell(self, report: Progress) -> None:
        with self._telling:
            if report.ended:
                self._shown.pop(report.activity, None)
            else:
                self._shown[report.activity] = report
            for listener in list(self._listeners):
                try:
                    listener(report)
                except Exception:
                    self._listeners.remove(listener)
                    log.warning(
                        "The progress listener of machine '%s' failed, and is removed",
                        self._machine,
                        exc_info=True,
                    )


@contextlib.contextmanager
def activity(reporter: Reporter | None, name: str, unit: str = "") -> Iterator[Activity]:
    """Reports what is done in the block, if somebody wants to know."""
    begun = Activity(name, unit) if reporter is None else reporter.begin(name, unit)
    try:
        yield begun
    finally:
        begun.ended = True


class _Transfers:
    """Notices large uploads and downloads of a session from its counters."""

    def __init__(self, reporter: Reporter, session: Session) -> None:
        self._reporter = reporter
        self._session = session
        self._rest: dict[str, int] | None = None
        self._activity: Activity | None = None

    def look(self) -> None:
        now = self._session.statistics()
        executed = core.session_last_executed(self._session.handle)
        if self._rest is None or executed >= now["batches"]:
            self._rest = now
            self.end()
            return
        rest = self._rest
        since = {name: now[name] - rest[name] for name in now}
        up, down = since["uploaded_bytes"], since["downloaded_bytes"]
        moved = max(up, down)
        if moved < _FEWEST_BYTES or moved < _BYTES_PER_OPERATION * since["operations"]:
            self.end()
            return
        name = "upload" if up >= down else "download"
        if self._activity is None or self._activity.name != name:
            self.end()
            self._activity = self._reporter.begin(name, "bytes")
        if up >= down:
            self._activity.set(up, 0)
        else:
            # A large value is read in pieces, each the answer of a batch.
            batches = max(1, since["batches"])
            done = min(batches, max(0, executed - rest["batches"]))
            self._activity.set(down * done // batches, down)

    def end(self) -> None:
        if self._activity is not None:
            self._activity.ended = True
            self._activity = None


# ---------------------------------------------------------------- displays


class _Display:
    """Shows the activity that began last. Called with the reporter's lock."""

    def __init__(self) -> None:
        self._running: dict[str, Progress] = {}

    def __call__(self, report: Progress) -> None:
        if report.ended:
            self._running.pop(report.activity, None)
        else:
            self._running[report.activity] = report
        self.show(min(self._running.values(), key=lambda each: each.elapsed, default=None))

    def show(self, report: Progress | None) -> None:
        raise NotImplementedError


class TerminalBar(_Display):
    """One line of a terminal, which is written over again and cleared at the end."""

    def __init__(self, stream: TextIO) -> None:
        """Writes to this stream."""
        super().__init__()
        self._stream = stream
        self._written = 0

    def show(self, report: Progress | None) -> None:
        """Shows a report, or nothing."""
        line = ""
        if report is not None:
            line = str(report)
            if report.fraction is not None:
                full = int(report.fraction * _BAR)
                line = f"[{'#' * full}{'.' * (_BAR - full)}] {line}"
        line = line[:_WIDTH]
        blank = " " * max(0, self._written - len(line))
        self._written = len(line)
        self._stream.write(f"\r{line}{blank}" + ("" if line else "\r"))
        self._stream.flush()


class NotebookBar(_Display):
    """A display below the cell that runs, which is updated and made empty at the end."""

    def __init__(self) -> None:
        """Shows nothing yet."""
        super().__init__()
        self._handle: Any = None

    def show(self, report: Progress | None) -> None:
        """Shows a report, or nothing."""
        text = "" if report is None else str(report)
        fraction = None if report is None else report.fraction
        value = "" if fraction is None else f' value="{fraction:.3f}"'
        markup = "" if report is None else f"<progress{value}></progress> {html.escape(text)}"
        shown = {"text/plain": text, "text/html": markup}
        if self._handle is not None:
            self._handle.update(shown, raw=True)
        elif report is not None:
            from IPython.display import display

            self._handle = display(shown, raw=True, display_id=True)
        if report is None:
            self._handle = None


def _notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def display() -> Listener | None:
    """Returns the display for this program; None if ``REMORA_PROGRESS`` or its surroundings want none."""
    wanted = os.environ.get("REMORA_PROGRESS", "").strip()
    if wanted and not switch("REMORA_PROGRESS"):
        return None
    if _notebook():
        return NotebookBar()
    stream = sys.stderr
    if wanted or (stream is not None and stream.isatty() and not os.environ.get("CI")):
        return TerminalBar(stream)
    return None


def reporter(machine: str, listener: Listener | None) -> Reporter | None:
    """Returns a reporter for a machine; None if nobody wants to know."""
    listeners = [each for each in (listener, display()) if each is not None]
    return Reporter(machine, listeners) if listeners else None
