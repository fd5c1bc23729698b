"""dF/F, D and the control value: from the traces of the proximal plane to one number a frame."""

from loop2p.decoding.core import ControlSignal, Decoder, DifferenceDecoder, Smoother
from loop2p.decoding.f0 import RollingF0

__all__ = ["ControlSignal", "Decoder", "DifferenceDecoder", "RollingF0", "Smoother"]
