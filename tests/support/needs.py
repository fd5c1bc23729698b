"""What a test needs of the machine, and what its absence means."""

import os
from typing import NoReturn

import pytest


def lacking(reason: str) -> NoReturn:
    """Skip and say why; fail where `.ci/run` has installed it: then something is broken, not absent."""
    if os.environ.get("LOOP2P_ALL_INSTALLED"):
        pytest.fail(f"{reason}, though .ci/run has installed it")
    pytest.skip(reason)
