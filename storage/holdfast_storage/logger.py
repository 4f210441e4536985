"""The loggers of Holdfast. Their lines show nothing secret, and each is one line, whatever names others chose."""

from __future__ import annotations

import logging

from holdfast_storage.printable import printable
from holdfast_storage.scrub import scrubbed
from holdfast_storage.told import fit


class _Fit(logging.Filter):
    """Makes records fit to be shown. A record that is so already stays as it is."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # of another library, whose line this would lose
            message = f"{record.msg} {record.args}\n"
        shown = printable(scrubbed(message))
        if shown != message:
            record.msg, record.args = shown, ()
        if isinstance(record.exc_info, tuple) and (error := record.exc_info[1]) is not None:
            stand_in = fit(error)
            if stand_in is not error:
                record.exc_info, record.exc_text = (type(stand_in), stand_in, stand_in.__traceback__), None
        return True


_FIT = _Fit()


def logger(name: str) -> logging.Logger:
    """Return a logger, which users know by its name. All of Holdfast's come from here."""
    found = logging.getLogger(name)
    found.addFilter(_FIT)
    return found


def log_to_stderr() -> None:
    """Log to stderr, if nothing else is configured. What other libraries log is made fit to be shown, too."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(_FIT)
