"""`current().log` among the logging of the program that a task belongs to."""

import logging.config

from cluster.task import current, running


class Kept:
    """What the attempt keeps."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, number: int, text: str) -> None:
        self.lines.append(text)


def test_a_program_that_sets_up_its_logging_does_not_silence_its_tasks(monkeypatch):
    kept = Kept()
    for name, value in (("id", 5), ("attempt", 1), ("name", "f"), ("lines", kept)):
        monkeypatch.setattr(running, name, value)
    root = logging.getLogger()
    level, disabled = root.level, {
        name: logger.disabled
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger)
    }
    try:
        logging.config.dictConfig({"version": 1, "root": {"level": "INFO"}})    # disables all loggers that it finds
        current().log.info("heard")
    finally:
        root.setLevel(level)
        for name, was in disabled.items():
            logging.getLogger(name).disabled = was
    assert kept.lines == ["INFO heard"]
