"""Progress of long work: a bar with hours of audio per hour on a terminal, a log line a minute otherwise."""

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm

log = logging.getLogger("voxtok")


class Progress:
    """Counts work done, in seconds of audio, and shows how fast it goes.

    Example: `with Progress("encode", total_s) as progress: progress.add(cut.duration)`.
    """

    def __init__(self, what: str, total_s: float | None, log_every_s: float = 60.0) -> None:
        self.what = what
        self.total_s = total_s
        self.done_s = 0.0
        self._log_every_s = log_every_s
        self._start = self._last_log = time.monotonic()
        self._bar: tqdm[None] | None = None
        if sys.stderr.isatty():
            layout = "{desc}: {postfix} {elapsed}"
            if total_s is not None:
                layout = "{desc}: {percentage:3.0f}%|{bar}| {postfix} {remaining}"
            self._bar = tqdm(total=total_s, desc=what, bar_format=layout)

    def add(self, audio_s: float) -> None:
        """Note that `audio_s` more seconds of audio are done."""
        self.done_s += audio_s
        now = time.monotonic()
        if self._bar is not None:
            self._bar.set_postfix_str(self.rate(now), refresh=False)
            self._bar.update(audio_s)
        elif now - self._last_log >= self._log_every_s:
            self._last_log = now
            log.info("%s: %s", self.what, self.rate(now))

    def rate(self, now: float) -> str:
        """Such as `1.25 h of 10.00 h, 83 x real time`; x real time is hours of audio per hour."""
        speed = self.done_s / max(now - self._start, 1e-9)
        of_total = "" if self.total_s is None else f" of {self.total_s / 3600:.2f} h"
        return f"{self.done_s / 3600:.2f} h{of_total}, {speed:.0f} x real time"

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            log.info("%s: done, %s", self.what, self.rate(time.monotonic()))
