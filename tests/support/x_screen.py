"""A virtual X server for a test."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from needs import lacking

from loop2p.cli.benchmarks.xserver import virtual_screen


@contextmanager
def x_screen(monkeypatch: pytest.MonkeyPatch, width: int, height: int) -> Iterator[str]:
    """On a display number of its own choice, which DISPLAY says; skips where Xvfb is missing."""
    try:
        with virtual_screen(width, height) as name:
            monkeypatch.setenv("DISPLAY", name)
            monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
            monkeypatch.delenv("XDG_SESSION_TYPE", raising=False)
            yield name
    except RuntimeError as error:
        lacking(str(error))
