"""What a detection run says: one logger below Detectron2's, and a console that is spared Detectron2's long dumps."""

from __future__ import annotations

import logging
import sys

LOGGER = logging.getLogger("detectron2.infomin_transfer")  # below Detectron2's logger: same screen, same log.txt
LONG_MESSAGE = 40  # lines


def shorten_console(logger: logging.Logger) -> None:
    """Keep Detectron2's dumps (environment, configuration, model: hundreds of lines) and its `copypaste:` lines off the screen;
    log.txt has them."""
    for handler in logger.handlers:
        if not isinstance(handler, logging.FileHandler) and getattr(handler, "stream", None) is sys.stdout:
            handler.addFilter(_is_short)


def _is_short(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return message.count("\n") < LONG_MESSAGE and not message.startswith(("Environment info", "copypaste:"))
