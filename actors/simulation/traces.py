"""Tracebacks as text that is the same wherever the project stands: its length travels, so it is part of the course."""

import traceback
from types import TracebackType


def portable_traceback(error: BaseException, tb: TracebackType | None) -> str:
    """The frames from `tb` on, by module instead of by file and source, and then the error."""
    lines = ["Traceback (most recent call last):\n"]
    for frame, line in traceback.walk_tb(tb):
        lines.append(f"  {frame.f_globals.get('__name__')}, line {line}, in {frame.f_code.co_name}\n")
    return "".join([*lines, *traceback.format_exception_only(error)])
