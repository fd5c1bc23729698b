"""Asking a service something on its control socket."""

import zmq

from loop2p.protocol import WireError, control
from loop2p.runtime.keys import Keys


def ask(
    endpoint: str, request: control.Request, timeout_s: float = 1.0, keys: Keys | None = None
) -> control.Reply | None:
    """One request, one answer; None if nobody answers in time. Raises WireError on a malformed answer.

    `keys`: of the asker, on a rig that has keys.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.REQ)
    socket.linger = 0
    try:
        if keys:
            keys.trust_at(socket, endpoint)
        socket.connect(endpoint)
        socket.send(control.encode(request))
        if not socket.poll(int(timeout_s * 1000)):
            return None
        return control.decode_reply(socket.recv())
    finally:
        socket.close()
        context.term()


def ask_answer(
    endpoint: str, request: control.Ask | control.Stop, timeout_s: float = 2.0, keys: Keys | None = None
) -> control.Answer:
    """Ask for something to be done; silence or nonsense comes back as a refusal with its reason."""
    try:
        reply = ask(endpoint, request, timeout_s, keys)
    except WireError as error:
        return control.Answer(False, str(error))
    if isinstance(reply, control.Answer):
        return reply
    return control.Answer(False, f"no answer from {endpoint} within {timeout_s:g} s; is the service running?")
