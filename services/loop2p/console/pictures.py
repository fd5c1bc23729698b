"""Pictures for the page: the newest preview of each plane, and the day's references. A socket of its own, so that no
pixel is waited for by anybody, and one that comes too late is simply not shown."""

import io

import numpy as np
import zmq
from numpy.typing import NDArray
from PIL import Image

from loop2p.console.core import MAX_PLANES
from loop2p.protocol import Day1Images, Preview, Rig, Rois, Swap, WireError, open_parts
from loop2p.runtime.keys import Keys

QUALITY = 80
"""Of the JPEG."""
WAITING = 4
"""Previews the socket holds at most; older ones are dropped by ZeroMQ."""


class Previews:
    """Imaging's previews: of those that wait the newest of each plane."""

    def __init__(self, rig: Rig, keys: Keys | None) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.linger, self._socket.rcvhwm = 0, WAITING
        self._socket.subscribe(Preview.topic)
        self._keys, self._at = keys, ""
        self._connect(rig.services["imaging"].bulk)

    def _connect(self, endpoint: str) -> None:
        if self._keys:
            self._keys.trust(self._socket, "imaging")
        self._socket.connect(endpoint)
        self._at = endpoint

    def follow(self, swap: Swap) -> None:
        """Another one acts for imaging."""
        if swap.service == "imaging" and swap.acting.bulk != self._at:
            self._socket.disconnect(self._at)
            self._connect(swap.acting.bulk)

    def newest(self) -> dict[int, Preview]:
        """What is waiting, by plane; malformed messages are left out. Never waits."""
        found: dict[int, Preview] = {}
        for _ in range(4 * WAITING):
            try:
                message = open_parts(self._socket.recv_multipart(zmq.NOBLOCK)).message
            except zmq.Again:
                break
            except WireError:
                continue
            if isinstance(message, Preview) and message.plane < MAX_PLANES:
                found[message.plane] = message
        return found

    def close(self) -> None:
        self._socket.close()
        self._context.term()


def jpeg_of(preview: Preview) -> bytes | None:
    """A preview as a JPEG; None where its pixels are not as many as it says."""
    size = preview.height * preview.width
    if len(preview.buffers) != 1 or len(preview.buffers[0]) != size or not size:
        return None
    return _jpeg(np.frombuffer(preview.buffers[0], np.uint8).reshape(preview.height, preview.width))


def reference_jpegs(rois: Rois) -> dict[int, bytes]:
    """The references that the ROIs lie on, by plane: 1st percentile black, 99.7th white; none until they are built."""
    found = {}
    for plane, pixels in enumerate(rois.buffers):
        if len(pixels) != 4 * rois.height * rois.width or not pixels:
            continue
        image = np.nan_to_num(np.frombuffer(pixels, "<f4").reshape(rois.height, rois.width))
        low, high = np.percentile(image, (1, 99.7))
        scaled = np.clip((image - low) * (255 / max(high - low, 1e-9)), 0, 255)
        found[plane] = _jpeg(scaled.astype(np.uint8))
    return found


def day1_jpegs(images: Day1Images) -> dict[int, bytes]:
    """Day 1's references, by plane; none where there are not as many pixels as it says."""
    size = images.height * images.width
    fit = {k: pixels for k, pixels in enumerate(images.buffers[:MAX_PLANES]) if size and len(pixels) == size}
    return {k: _jpeg(np.frombuffer(p, np.uint8).reshape(images.height, images.width)) for k, p in fit.items()}


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
