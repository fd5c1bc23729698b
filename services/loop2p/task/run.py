"""A session in hand: its core, the commands that follow from it, and the files that outlive this process."""

from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

from loop2p.protocol import (
    Accepted,
    Alarm,
    Calibration,
    Cause,
    Message,
    OptoCommand,
    Output,
    Phase,
    Refused,
    RequestLog,
    RewardCommand,
    Selection,
    Session,
    Stall,
    Swap,
)
from loop2p.runtime.atomic import write_atomically
from loop2p.task.animal import updated
from loop2p.task.commands import Commander
from loop2p.task.core import Effect, Opto, SessionCore, TimeRanBackError
from loop2p.task.journal import KEPT, Entry, Journal, LedgerFile

ID_BLOCK = 10_000
ARM_AGAIN_NS = 500_000_000
COUNTS = (
    "outputs_taken", "outputs_left_out", "rewards_commanded", "rewards_done", "commands_refused", "commands_unanswered",
)  # fmt: skip


class Run:
    """Steps the core and makes its effects into messages; what a successor must know is written before they leave.

    `actuation` tells which instance of the actuator commands are meant for, "" if there is none.
    Raises OSError when a file can't be written.
    """

    def __init__(
        self,
        session: Session,
        selection: Selection,
        core: SessionCore,
        folder: Path,
        now_ns: Callable[[], int],
        actuation: Callable[[], str],
    ) -> None:
        self.session, self.selection, self.core, self.folder = session, selection, core, folder
        self.restored = False
        """It was a predecessor's, and was not resumed yet."""
        self.counts = dict.fromkeys(COUNTS, 0)
        self._now_ns, self._actuation = now_ns, actuation
        self._alarms: set[str] = set()
        self._ledger: LedgerFile | None = None
        self._journal: Journal | None = None
        self._commander = Commander(0)
        self._arm_again_ns: int | None = None
        """When to ask once more for an LED that was refused, such as in a lapse of the lease."""

    @property
    def is_open(self) -> bool:
        """It has begun and not ended: a successor would have to take it over."""
        return self._journal is not None

    def open(self, ledger: LedgerFile, new: bool) -> None:
        """Begin: from now on a successor takes over if this process dies."""
        self._ledger = ledger
        ledger.ledger.open_run = self.session.run_id
        self._commander = Commander(ledger.reserve_ids(ID_BLOCK))
        self._journal = Journal(self.folder)
        if new:
            self._write([self.session, self.selection])

    # ------------------------------------------------------------ events

    def take(self, output: Output) -> list[Message]:
        """A frame. One whose time does not rise is left out, with an alarm."""
        try:
            effects = self.core.step(output)
            self.counts["outputs_taken"] += 1
        except TimeRanBackError as error:
            self.counts["outputs_left_out"] += 1
            return self._alarm("time-ran-back", True, str(error))
        return self._carry_out(effects, output.cause) if effects else []

    def feed(self, event: Stall | RequestLog) -> list[Message]:
        """An event of the task's own: what follows from it."""
        return self._carry_out(self.core.step(event), None)

    def accepted(self, accepted: Accepted) -> list[Message]:
        """The actuator has a command in hand."""
        if self._commander.answered(accepted.id) is None:
            return []
        return self._alarm("command-unanswered", False, "answered") + self._alarm("command-refused", False, "accepted")

    def refused(self, refused: Refused) -> list[Message]:
        """The actuator refuses a command: it was not given, and the operator is told."""
        command = self._commander.answered(refused.id)
        if command is None:
            return []
        self.counts["commands_refused"] += 1
        if isinstance(command, RewardCommand) and command.volume_ul > 0:
            self._write([refused])
        if isinstance(command, OptoCommand) and command.armed:
            self._arm_again_ns = self._now_ns() + ARM_AGAIN_NS
        return self._alarm("command-refused", True, f"{name_of(command)}: {refused.reason}")

    def tick(self) -> list[Message]:
        """Repeat what is unanswered; arm an LED again that was refused while it should be on."""
        if self._arm_again_ns is not None and self._now_ns() >= self._arm_again_ns:
            self._arm_again_ns = None
            return [*self._carry_out(self.core.led(), None), *self.tick()]
        again, unanswered = self._commander.tick(self._now_ns())
        out: list[Message] = list(again)
        for command in unanswered:
            self.counts["commands_unanswered"] += 1
            text = f"{name_of(command)}: no answer from {command.target} within 250 ms; it counts as given"
            out += self._alarm("command-unanswered", True, text)
        return out

    # ------------------------------------------------------------ effects

    def _carry_out(self, effects: Iterable[Effect], cause: Cause | None) -> list[Message]:
        out = [m for m in (self._message(effect, cause) for effect in effects) if m is not None]
        self._write([m for m in out if isinstance(m, KEPT) and not (isinstance(m, RewardCommand) and m.volume_ul == 0)])
        for message in out:
            if isinstance(message, Calibration) and message.n_values:
                self._write_animal(message)
            elif isinstance(message, Phase) and message.phase == "ended":
                self._end()
        return out

    def _message(self, effect: Effect, cause: Cause | None) -> Message | None:
        if isinstance(effect, Message):
            return effect
        target, now_ns = self._actuation(), self._now_ns()
        if not target or "actuation" in self.core.missing:
            return None  # a lost actuator is safe already, and comes back unarmed
        if isinstance(effect, Opto):
            pulse_ms = self.core.plan.experiment.opto.pulse_ms if effect.armed else 0.0
            return self._commander.opto(now_ns, target, effect.armed, pulse_ms, cause)
        self.counts["rewards_commanded"] += effect.volume_ul > 0
        return self._commander.reward(now_ns, target, effect.volume_ul, effect.trial, cause)

    def disarm(self) -> list[Message]:
        """The LED off, whatever the core thinks; for a task that leaves."""
        target = self._actuation()
        if not (self.is_open and target and self.core.plan.experiment.lights):
            return []
        return [self._commander.opto(self._now_ns(), target, False, 0.0, None)]

    def _alarm(self, code: str, active: bool, detail: str) -> list[Message]:
        """The alarm, if it is news."""
        if active == (code in self._alarms):
            return []
        (self._alarms.add if active else self._alarms.discard)(code)
        return [Alarm(code=code, active=active, detail=detail)]

    # ------------------------------------------------------------ files

    def _write(self, entries: list[Entry]) -> None:
        if self._journal is not None:
            self._journal.write(entries)

    def _write_animal(self, calibration: Calibration) -> None:
        """The animal file for tomorrow, into the run folder."""
        animal = self.core.plan.animal_after(calibration.z_star, self.selection.confirmed_by, self.session.wall_time)
        write_atomically(self.folder / "animal.toml", updated(self.session.animal, animal))

    def _end(self) -> None:
        self.restored = False
        self.leave()
        if self._ledger is not None:
            ledger = self._ledger.ledger
            ledger.open_run, ledger.date, ledger.given_ul = "", today(), self.core.given_ul
            self._ledger.save()

    def hand_over(self, swap: Swap) -> None:
        """For the successor: a task that leaves now was asked to, and its session goes on."""
        self._write([swap])

    def leave(self) -> None:
        """Close the state file; unless the session has ended it stays to be taken over."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None


def name_of(command: object) -> str:
    """A command for a person to read."""
    if isinstance(command, RewardCommand):
        trial = "free" if command.trial < 0 else f"trial {command.trial}"
        return f"reward {command.id} ({command.volume_ul:g} ul, {trial})"
    assert isinstance(command, OptoCommand)
    return f"opto {command.id} ({'arm' if command.armed else 'disarm'})"


def today() -> str:
    """The date, for what counts by day."""
    return datetime.now().astimezone().date().isoformat()
