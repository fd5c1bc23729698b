"""The operator's page: what the rig does, in a browser, and what an operator asks there, asked of task."""

from loop2p.console.service import Console

__all__ = ["Console"]
