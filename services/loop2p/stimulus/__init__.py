"""The grating on the screen: what it looks like and when it is drawn."""

from loop2p.stimulus.core import GREY, Look, Newest, Renderer, cycles_per_degree, picture

__all__ = ["GREY", "Look", "Newest", "Renderer", "cycles_per_degree", "picture"]
