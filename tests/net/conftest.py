"""Tests in a laboratory of three machines, each a set of namespaces (tests/support/lab)."""

import pytest
from lab import why_not_here


@pytest.fixture(autouse=True)
def _possible() -> None:
    reason = why_not_here()
    if reason:
        pytest.skip(reason)
