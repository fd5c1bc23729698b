"""Commands to the actuator: numbered, addressed, repeated until acknowledged, dead after 250 ms. Pure.

A command that nobody acknowledged counts as given: the drop may have fallen although the answer was lost.
"""

from typing import TypeVar

from msgspec import Struct

from loop2p.protocol import Cause, Command, OptoCommand, RewardCommand

EXPIRY_NS = 250_000_000
REPEAT_NS = 20_000_000

C = TypeVar("C", bound=Command)


class _Open(Struct):
    command: Command
    sent_ns: int


class Commander:
    """Issues commands and keeps those that are unanswered. Ids rise by one from `next_id`."""

    def __init__(self, next_id: int) -> None:
        self.next_id = next_id
        self._open: dict[int, _Open] = {}

    def reward(self, now_ns: int, target: str, volume_ul: float, trial: int, cause: Cause | None) -> RewardCommand:
        """A new reward command, to be published now."""
        command = RewardCommand(
            id=self._number(),
            target=target,
            expires_ns=now_ns + EXPIRY_NS,
            volume_ul=volume_ul,
            trial=trial,
            cause=cause,
        )
        return self._opened(command, now_ns)

    def opto(self, now_ns: int, target: str, armed: bool, pulse_ms: float, cause: Cause | None) -> OptoCommand:
        """A new command to arm or disarm the LED, to be published now."""
        command = OptoCommand(
            id=self._number(),
            target=target,
            expires_ns=now_ns + EXPIRY_NS,
            armed=armed,
            pulse_ms=pulse_ms,
            cause=cause,
        )
        return self._opened(command, now_ns)

    def answered(self, command_id: int) -> Command | None:
        """Accepted or refused: no more repeats. None if the id is not open (answered or expired before)."""
        found = self._open.pop(command_id, None)
        return found.command if found else None

    def tick(self, now_ns: int) -> tuple[list[Command], list[Command]]:
        """What to publish again now, and what has expired unanswered since the last call."""
        expired = [o.command for o in self._open.values() if now_ns > o.command.expires_ns]
        for command in expired:
            del self._open[command.id]
        again = [o for o in self._open.values() if now_ns - o.sent_ns >= REPEAT_NS]
        for one in again:
            one.sent_ns = now_ns
        return [o.command for o in again], expired

    def _number(self) -> int:
        self.next_id += 1
        return self.next_id - 1

    def _opened(self, command: C, now_ns: int) -> C:
        self._open[command.id] = _Open(command, now_ns)
        return command
