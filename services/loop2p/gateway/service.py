"""The gateway's shell: the bus on one side, a broker on the other, and nothing of either waits for the other."""

import asyncio
import importlib.metadata
import logging
import threading
import time
import uuid
from collections import Counter
from contextlib import suppress
from datetime import datetime
from typing import Any, ClassVar, Self

import aiomqtt
import msgspec
from aiomqtt.exceptions import MqttConnectError
from msgspec import Struct, structs
from paho.mqtt.subscribeoptions import SubscribeOptions

from loop2p.gateway.commands import Command, Commands, Refusal
from loop2p.gateway.core import TOPICS, RigView
from loop2p.gateway.discovery import discovery
from loop2p.gateway.options import GatewayOptions, Login, check, login, read_session
from loop2p.gateway.outbox import Outbox, Publication
from loop2p.protocol import FileError, RigFile, control
from loop2p.runtime.ask import ask_answer
from loop2p.runtime.keys import load_keys
from loop2p.runtime.monitor import Monitor

log = logging.getLogger("loop2p.gateway")
quiet = logging.getLogger("loop2p.gateway.mqtt")
quiet.setLevel(logging.ERROR)  # what is wrong is said here, once, and not at every attempt

KEEPALIVE_S = 10
"""A gateway that falls silent is "offline" after 1.5 times this."""
TIMEOUT_S = 4.0
"""A broker that does not answer for so long has stalled; the connection is made anew."""
BACK_OFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
STEADY_S = 10.0
"""A connection that held for so long was a good one: the next is tried at once."""
PACE_S = 0.1
"""What is due is looked for this often,"""
BURST = 10
"""and at most so much of it is sent at a time: nobody floods a broker through the gateway."""
ASK_S = 5.0
LEAVE_S = 1.5
WAITING = 100
"""Commands that wait to be looked at; a flood beyond is dropped."""


class GatewayNow(Struct, frozen=True):
    """`gateway`: about the gateway itself."""

    commands: str
    """"taken", or why they are not."""
    accepted: int
    """Commands that task accepted."""
    refused: dict[str, int]
    """Commands refused, by reason; "task": by task."""
    lost_events: int
    """Trials and answers that gave way to newer ones while the broker was away."""
    connections: int
    """To the broker, since the gateway started."""


class Answered(Struct, frozen=True):
    """`answer`: what became of a command."""

    id: str
    command: str
    accepted: bool
    reason: str
    time: float


class Gateway:
    """Tells a broker what the rig does; puts commands that arrive there to task, if it may. Decides nothing itself."""

    Options: ClassVar[type[Struct]] = GatewayOptions

    def __init__(self, options: GatewayOptions, rig_file: RigFile) -> None:
        self.options, self.rig_file = options, rig_file
        self.keys = load_keys(rig_file, _own_name(options, rig_file))
        self.base = f"loop2p/{rig_file.rig.name}"
        self.view = RigView(tuple(rig_file.rig.services))
        self.outbox = Outbox()
        self.commands = Commands(tuple(options.sessions), time.monotonic())
        self.refused: Counter[str] = Counter()
        self.accepted = self.connections = 0
        self._commands_now = "off in the rig file" if not options.commands else "not connected yet"
        self._problem = ""
        self._leave = asyncio.Event()
        self._echo = asyncio.Event()
        if options.discovery:
            version = importlib.metadata.version("loop2p")
            for entity in discovery(options.discovery, rig_file.rig.name, self.base, version):
                self.outbox.hold(entity)

    @classmethod
    def from_rig(cls, options: Any, rig_file: RigFile) -> Self:
        """Raises FileError for options that can't work or are not safe."""
        check(options, rig_file)
        return cls(options, rig_file)

    def run(self, stop: threading.Event) -> None:
        """Until `stop`. A selector loop everywhere: aiomqtt needs `add_reader`, which Windows' own loop lacks."""
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(self._run(stop))

    async def _run(self, stop: threading.Event) -> None:
        talk = asyncio.create_task(self._talk())
        try:
            await self._listen(stop, talk)
        finally:
            self._leave.set()
            await asyncio.wait({talk}, timeout=LEAVE_S)
            talk.cancel()
        with suppress(asyncio.CancelledError):
            await talk

    # ------------------------------------------------------------ the bus

    async def _listen(self, stop: threading.Event, talk: "asyncio.Task[None]") -> None:
        """Ends when asked to, or when the other side has met a bug."""
        with Monitor(self.rig_file.rig, TOPICS, self.keys) as monitor:
            while not stop.is_set() and not talk.done():
                for envelope in await asyncio.to_thread(lambda: list(monitor.wait(PACE_S))):
                    outcome = self.view.take(envelope, time.monotonic(), time.time())
                    if outcome is not None:
                        self._add("trial", outcome)
                self._hold_all()
                await asyncio.sleep(PACE_S / 2)  # a batch, not a message, at a time: nothing here is urgent

    def _hold_all(self) -> None:
        view, steady_s = self.view, time.monotonic()
        about = GatewayNow(self._commands_now, self.accepted, dict(self.refused), self.outbox.lost, self.connections)
        for name, value in (
            ("status", view.status(steady_s)),
            ("rewards", view.rewards()),
            ("alarms", view.alarms()),
            ("faults", view.faults()),
            ("gateway", about),
        ):
            self.outbox.hold(Publication(f"{self.base}/{name}", msgspec.json.encode(value)))
        ages = msgspec.json.encode(view.ages(steady_s, time.time()))
        self.outbox.hold(Publication(f"{self.base}/heartbeat", ages, qos=0, retain=False))

    def _add(self, name: str, event: Struct) -> None:
        self.outbox.add(Publication(f"{self.base}/{name}", msgspec.json.encode(event), retain=False))

    # ------------------------------------------------------------ the broker

    async def _talk(self) -> None:
        """Connect, and again, for as long as it takes."""
        failed = 0
        while not self._leave.is_set():
            begun_s, before = time.monotonic(), self.connections
            try:
                known = login(self.options, self.rig_file)
                async with self._client(known, f"loop2p-{self.rig_file.rig.name}", self._will()) as client:
                    await self._serve(client, known)
            except (aiomqtt.MqttError, FileError) as error:
                self._say(f"broker {self.options.broker}:{self.options.port}: {error}")
            held = self.connections > before and time.monotonic() - begun_s > STEADY_S
            failed = 0 if held else failed + 1
            await self._wait(BACK_OFF_S[min(failed, len(BACK_OFF_S)) - 1] if failed else 0)

    def _client(self, known: Login, identifier: str, will: aiomqtt.Will | None) -> aiomqtt.Client:
        """MQTT 5: only there a command's retain flag is seen by one who is subscribed already."""
        tls = self.options.tls
        return aiomqtt.Client(
            self.options.broker,
            self.options.port,
            username=known.user,
            password=known.password,
            identifier=identifier,  # always the same: a broker then ends a connection that is half dead, and its will
            protocol=aiomqtt.ProtocolVersion.V5,
            will=will,
            keepalive=KEEPALIVE_S,
            clean_start=True,
            timeout=TIMEOUT_S,
            logger=quiet,
            max_queued_incoming_messages=WAITING,
            tls_params=None if tls is None else aiomqtt.TLSParameters(known.ca_file, known.cert_file, known.key_file),
        )

    def _will(self) -> aiomqtt.Will:
        return aiomqtt.Will(f"{self.base}/online", b"offline", qos=1, retain=True)

    async def _serve(self, client: aiomqtt.Client, known: Login) -> None:
        """One connection: say that we are here, then what is due; raises MqttError when it is lost."""
        self.connections += 1
        self.outbox.again()
        hear = asyncio.create_task(self._hear(client))
        try:
            await self._appear(client)
            if self.options.commands:
                self._commands_now = await self._subscribe(client, known)
            self._say("")
            while not self._leave.is_set():
                await self._publish(client)
                await self._wait(PACE_S)
                if hear.done():
                    raise aiomqtt.MqttError(f"the connection was lost: {hear.result()}")
            await client.publish(f"{self.base}/online", b"offline", qos=1, retain=True)
        finally:
            hear.cancel()
            if self.options.commands:
                self._commands_now = "not connected"

    async def _appear(self, client: aiomqtt.Client) -> None:
        """Be online, and hear it from the broker: what a user may not publish it drops, and says nothing."""
        self._echo.clear()
        online = f"{self.base}/online"
        only_new = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        await client.subscribe(online, options=only_new)
        await client.publish(online, b"online", qos=1, retain=True)
        try:
            await asyncio.wait_for(self._echo.wait(), TIMEOUT_S)
        except TimeoutError:
            user = self.options.user or "this user"
            raise aiomqtt.MqttError(
                f"what is published as {online} does not come back; expected the broker's access list to let {user} "
                f"write {self.base}/+ and read {online}"
            ) from None

    async def _publish(self, client: aiomqtt.Client) -> None:
        """What is due, one after another: at most one is under way, so nothing piles up before a slow broker."""
        for _ in range(BURST):
            due = self.outbox.due(time.monotonic())
            if due is None:
                return
            await client.publish(due.topic, due.payload, qos=due.qos, retain=due.retain)
            self.outbox.done(due, time.monotonic())

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._leave.wait(), seconds)

    def _say(self, problem: str) -> None:
        """What is wrong, once; and when all is well again."""
        if problem and problem != self._problem:
            log.warning("%s. Tries again; the rig goes on without.", problem)
        elif not problem:
            where = f"{self.options.broker}:{self.options.port}"
            log.info("connected to broker %s; commands: %s", where, self._commands_now)
        self._problem = problem

    # ------------------------------------------------------------ commands

    async def _subscribe(self, client: aiomqtt.Client, known: Login) -> str:
        """Listen for commands, unless the broker would take them from anybody; returns "taken", or why not."""
        if await self._lets_anybody_in(known):
            return "off: the broker lets in who does not say who he is; set allow_anonymous false there"
        options = SubscribeOptions(qos=1, retainAsPublished=True)
        codes = await client.subscribe(f"{self.base}/command/+", options=options)
        if any(getattr(code, "is_failure", False) for code in codes):
            return f"off: the broker does not let this user read {self.base}/command/+; see its access list"
        return "taken"

    async def _lets_anybody_in(self, known: Login) -> bool:
        """Raises MqttError if that can't be told, as when the broker does not answer: then there is no connection."""
        anybody = False
        try:
            async with self._client(Login(ca_file=known.ca_file), f"loop2p-nobody-{uuid.uuid4().hex[:8]}", None):
                anybody = True
        except MqttConnectError:
            pass  # turned away
        except aiomqtt.MqttError:
            if not anybody and known.cert_file is None:  # without a certificate the line is cut and no reason given
                raise
        return anybody

    async def _hear(self, client: aiomqtt.Client) -> str:
        """What comes from the broker, one after another, until the connection ends; returns why it did."""
        try:
            async for message in client.messages:
                if str(message.topic) == f"{self.base}/online":
                    self._echo.set()
                else:
                    await self._obey(message)
        except aiomqtt.MqttError as error:
            return str(error.__cause__ or error)
        return ""

    async def _obey(self, message: aiomqtt.Message) -> None:
        kind = str(message.topic).rpartition("/")[2]
        judged = self.commands.judge(kind, message.payload, message.retain, time.time(), time.monotonic())
        if isinstance(judged, Refusal):
            self._answer(judged.id, kind[:40], control.Answer(False, judged.reason), judged.why)
        else:  # what task was asked is answered, though the connection end meanwhile
            await asyncio.shield(asyncio.create_task(self._ask(judged)))

    async def _ask(self, command: Command) -> None:
        ask, why = command.ask, "task"
        try:
            if ask.kind == "start":
                run_id = f"{datetime.now().astimezone():%Y-%m-%dT%H-%M-%S}-{self.rig_file.rig.name}"
                args = read_session(self.options, ask.args["session"], self.rig_file)
                ask = structs.replace(ask, args=args | {"run_id": run_id, "by": ask.by})
            endpoint = self.rig_file.rig.services["task"].control
            answer = await asyncio.to_thread(ask_answer, endpoint, ask, ASK_S, self.keys)
        except FileError as error:
            answer, why = control.Answer(False, str(error)), "session"
        self._answer(command.id, ask.kind, answer, why)

    def _answer(self, command_id: str, kind: str, answer: control.Answer, why: str) -> None:
        if answer.accepted:
            self.accepted += 1
        else:
            self.refused[why] += 1
        self._add("answer", Answered(command_id, kind, answer.accepted, answer.reason[:2_000], round(time.time(), 3)))


def _own_name(options: GatewayOptions, rig_file: RigFile) -> str:
    """What the rig file calls this gateway, whose key it shows: the companion that has these options."""
    for name, spec in rig_file.rig.companions.items():
        if spec.run.startswith("loop2p.gateway") and rig_file.side_options(name, GatewayOptions) == options:
            return name
    return "gateway"
