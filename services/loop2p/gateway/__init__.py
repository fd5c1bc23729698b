"""What the rig is doing, told to an MQTT broker; and what an operator asks there, asked of task."""

from loop2p.gateway.service import Gateway

__all__ = ["Gateway"]
