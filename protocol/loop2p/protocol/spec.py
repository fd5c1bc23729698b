"""SPEC.md: the protocol for a programmer in any language, written from the types and their docstrings."""

import ast
import inspect
import re
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta, Struct, structs

from loop2p.protocol import arrays, control, messages, vectors, wire
from loop2p.protocol.messages import MESSAGES, PROTOCOL, Message

UNITS = {
    "_ns": "ns",
    "_cm_s": "cm/s",
    "_s": "s",
    "_ms": "ms",
    "_ul": "ul",
    "_px": "px",
    "_deg": "deg",
}
"""Ending of a field's name -> its unit."""

Docs = dict[str, dict[str, str]]


def text() -> str:
    """The whole document."""
    docs: Docs = {}
    for module in (messages, wire, control):
        docs |= read_docs(module)
    return "\n".join(
        [
            *HEAD.format(protocol=PROTOCOL).splitlines(),
            "",
            *_header(docs),
            "",
            *BODY.splitlines(),
            "",
            *_overview(docs),
            "",
            *(line for topic, kind in MESSAGES.items() for line in _topic(topic, kind, docs)),
            *CONTROL.splitlines(),
            "",
            *(line for one in get_args(control.Request) for line in _control("Request", one, docs)),
            *(line for one in get_args(control.Reply) for line in _control("Reply", one, docs)),
            *RULES.format(
                protocol=PROTOCOL,
                topic=wire.MAX_TOPIC_BYTES,
                header=wire.MAX_HEADER_BYTES,
                body=wire.MAX_BODY_BYTES,
                buffer=wire.MAX_BUFFER_BYTES,
                buffers=wire.MAX_BUFFERS,
            ).splitlines(),
            "",
            *_walk_through(),
            "",
            *PEER.splitlines(),
        ]
    ) + "\n"  # fmt: skip


def read_docs(module: ModuleType) -> Docs:
    """Class -> {"": its docstring, field: the string under the field}, from the module's source."""
    found: Docs = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        docs = found[node.name] = {"": inspect.cleandoc(ast.get_docstring(node) or "")}
        for field, below in zip(node.body, node.body[1:], strict=False):
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
                docs[field.target.id] = " ".join(str(below.value.value).split())  # type: ignore[attr-defined]
    return found


def _field_doc(kind: type[Struct], name: str, docs: Docs) -> str:
    return next((docs[c.__name__][name] for c in kind.__mro__ if name in docs.get(c.__name__, {})), "")


def _header(docs: Docs) -> list[str]:
    return [
        docs["Header"][""],
        "",
        *_table(wire.Header, docs),
        "",
        "`Cause`: " + docs["Cause"][""],
        "",
        *_table(messages.Cause, docs),
    ]


def _overview(docs: Docs) -> list[str]:
    lines = ["| topic | from | socket | delivery | what |", "|---|---|---|---|---|"]
    for topic, kind in MESSAGES.items():
        delivery = ("state, " if kind.state else "") + ("newest" if kind.newest else "every")
        first = docs[kind.__name__][""].split(". ")[0].rstrip(".")
        socket = "bulk" if kind.bulk else "publish"
        lines.append(
            f"| [`{topic}`](#{topic.replace('.', '')}) | {publisher(kind)} | {socket} | {delivery} | {first} |"
        )
    return lines


def publisher(kind: type[Message]) -> str:
    """Who publishes it, as its docstring says ("From imaging, every frame.")."""
    found = re.search(r"From (every service|any service|\w+)", kind.__doc__ or "")
    return found.group(1) if found else ""


def _topic(topic: str, kind: type[Message], docs: Docs) -> list[str]:
    nested = [n for f in structs.fields(kind) for n in _structs(f.type) if n is not messages.Cause]
    lines = [f"### {topic}", "", docs[kind.__name__][""], "", *_table(kind, docs), ""]
    for one in nested:
        lines += [f"`{one.__name__}`: {docs[one.__name__]['']}", "", *_table(one, docs), ""]
    return lines


def _control(what: str, kind: Any, docs: Docs) -> list[str]:
    lines = [f"### {what} `{kind.__struct_config__.tag}`", ""]
    if docs[kind.__name__][""]:
        lines += [docs[kind.__name__][""], ""]
    return [*lines, *_table(kind, docs), ""]


def _table(kind: type[Struct], docs: Docs) -> list[str]:
    """A struct's fields. Cause and buffers of a message travel outside its body."""
    lines = ["| field | type | unit | default | meaning |", "|---|---|---|---|---|"]
    config = kind.__struct_config__
    if config.tag_field:
        lines.append(f'| `{config.tag_field}` | str: "{config.tag}" | | required | |')
    for field in structs.fields(kind):
        if issubclass(kind, Message) and field.name in ("cause", "buffers"):
            continue
        unit = next((u for ending, u in UNITS.items() if field.name.endswith(ending)), "")
        meaning = _field_doc(kind, field.name, docs)
        lines.append(f"| `{field.encode_name}` | {_type(field.type)} | {unit} | {_default(field)} | {meaning} |")
    return lines


def _default(field: structs.FieldInfo) -> str:
    if field.default is not NODEFAULT:
        value = field.default
    elif field.default_factory is not NODEFAULT:
        value = field.default_factory()
    else:
        return "required"
    if value is None:
        return "nil"
    return "empty" if value == b"" else f"`{msgspec.json.encode(value).decode()}`"


def _type(hint: Any) -> str:
    """A type in words of MessagePack."""
    dtype = arrays.array_dtype(hint)
    if dtype:
        return f"bin: {'float' if 'f' in dtype else 'int'}{8 * int(dtype[2:])}, little-endian"
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = [f" >= {m.ge}" for m in args[1:] if isinstance(m, Meta) and m.ge is not None]
        return _type(args[0]) + "".join(limits)
    if origin is Literal:
        return "str: " + ", ".join(f'"{a}"' for a in args)
    if origin in (Union, UnionType):
        return " or ".join(map(_type, args))
    if origin is list:
        return f"array of {_type(args[0])}"
    if origin is dict:
        return f"map: {_type(args[0])} to {_type(args[1])}"
    if isinstance(hint, type) and issubclass(hint, Struct):
        return f"`{hint.__name__}`"
    return {NoneType: "nil", bytes: "bin"}.get(hint, str(getattr(hint, "__name__", hint)))


def _structs(hint: Any) -> list[type[Struct]]:
    if isinstance(hint, type) and issubclass(hint, Struct):
        return [hint]
    return [one for arg in get_args(hint) for one in _structs(arg)]


def _walk_through() -> list[str]:
    """One message, part by part."""
    made = vectors.files()
    header, body = made["header.minimal.msgpack"], made["imaging.traces.minimal.msgpack"]
    lines = [
        "## A message byte by byte",
        "",
        "`imaging.traces` in its minimal form: a plane and three ROIs.",
        "",
        "```text",
        f"topic   {b'imaging.traces'.hex(' ')}",
    ]
    for name, data in (("header", header), ("body", body)):
        rows = [data[k : k + 24].hex(" ") for k in range(0, len(data), 24)]
        lines += [f"{name if k == 0 else '':8}{row}" for k, row in enumerate(rows)]
    lines += ["```", "", "which a MessagePack library reads as", "", "```text"]
    lines += [f"header  {msgspec.msgpack.decode(header)}", f"body    {msgspec.msgpack.decode(body)}", "```", ""]
    lines.append(
        "and `f` holds the float32 values "
        + ", ".join(f"{v:g}" for v in arrays.from_f32(msgspec.msgpack.decode(body)["f"]))
        + "."
    )
    return lines


HEAD = """\
# The loop2p protocol, number {protocol}

*Generated by `python -m loop2p.protocol.generate` from the message classes and their docstrings. Do not edit.*

How the services of a rig talk to one another, for whoever writes one in MATLAB, C, C#, JavaScript or anything else
that has ZeroMQ and MessagePack. `vectors/` beside this page holds every message as bytes together with what must be
read from them.

## Topology

There is no broker. Each service **binds** three endpoints, which the rig file names; everybody else **connects**.

| endpoint | socket it binds | peers connect with | carries |
|---|---|---|---|
| `publish` | XPUB | SUB | all messages but pixels |
| `bulk` | XPUB | SUB | pixels, so that they never delay anything else |
| `control` | ROUTER | REQ, or DEALER with an empty delimiter part | questions with one answer each |

A subscriber connects to the `publish` endpoint of every service it wants to hear, and to imaging's `bulk` endpoint
for pixels, and subscribes to topics by name. A service may publish the topics that begin with its own name, and
`rig.` topics; whatever else it sends is dropped. Only task may publish `rig.session` and `rig.swap`, and only a task's
command is obeyed.

## A message

A ZeroMQ multipart message: **topic, header, body**, then any number of **buffers** (up to a limit).

* *topic*: ASCII.
* *header*, *body*: MessagePack maps with string keys, in any order. A key that a reader does not know is skipped; a
  key that is missing stands for its default; a key given twice counts the last time. No MessagePack extension types.
* *buffers*: raw bytes, one part each, never inside the body. Cause and buffers are never keys of the body.

Types in the tables are MessagePack's. Mind: an `int` field takes a MessagePack integer only (the float 5.0 is
refused: in MATLAB or JavaScript make it an integer first), at most 64 bits; a `float` field takes a float or an
integer; `bin` is not `str`. Arrays of numbers are `bin`: the elements one after another, in the byte order that the
table states, of a length that is a whole number of elements.

Anything malformed is dropped by the receiver and counted (`rejected` in its heartbeat). It is never answered.

## Header
"""

BODY = """\
`protocol`, `source` and `instance` are the same in every message of a process. `seq` counts per topic: a subscriber
that sees it jump has missed messages (`gaps` in its heartbeat), one that sees a number again drops the message. The
first number seen of an instance is no gap. `cause` is the imaging frame that the message follows from, directly or
through others; copy it from the message you answer to, so that every latency from a frame to the screen, the valve
or the LED can be computed.

## Two times, never mixed

* *Frame time* (`time_s`, `t_s`): seconds of the microscope. Every decision depends on it alone.
* *Rig clock* (`_ns`): nanoseconds of the reference machine's monotonic clock; its zero has no meaning, `rig.session`
  ties it to wall time. It serves latencies, command expiry and watchdogs. Another machine measures its offset with
  control request `clock`: with t0, t3 its own clock at sending and receiving and t1, t2 from the reply,
  offset = ((t1 - t0) + (t2 - t3)) / 2 and the error is at most half the round trip (t3 - t0) - (t2 - t1). Of many
  exchanges believe the one with the shortest round trip.

## Topics

*state*: the publisher sends its last message of this topic again (for `rig.alarm`, of each code) to whoever
subscribes, with the same `seq` and `resent` true. Others see a number they had and drop it.
*every*: each message matters. *newest*: of several that wait, only the last need be looked at.
"""

CONTROL = """\
## Control socket

One request, one reply, each a single MessagePack map with a `type`. Anyone may ask `hello`, `clock`, `snapshot` and
`stop` of any service; `ask` is answered by task. A request that can't be read is answered by `answer` with
`accepted` false and the reason. Always send `protocol` in `hello`: a peer with another number can't be worked with.
"""

RULES = """\
## Pictures

`angle_deg` 0 is vertical bars, 90 horizontal bars, which is the target. Positive angles turn the bars
counter-clockwise as the animal sees them: with x to the right and y upwards from the middle of the screen, the
grating is cos(2 pi k (x cos a + y sin a)) for angle a and spatial frequency k. `shift_y_px` and `shift_x_px` say how
far the image has moved against the reference; positive is down and right. Images have row 0 on top and are in C
order.

## Commands

`task.reward` and `task.opto` move something, so they are done **at most once**.

* `id` is new for every command and rises. `target` is the instance of actuation that is meant (the `instance` in its
  heartbeat). `expires_ns` is 250 ms of rig clock after the command was issued.
* The sender repeats the command, with the same `id`, until it hears `actuation.accepted` or `actuation.refused` for
  it, and never after it expired.
* The receiver answers a command for another instance, an expired one and one it does not allow with
  `actuation.refused`. One whose `id` it has taken before is acknowledged again and not done again.
* `actuation.done` reports when the pin really went high and low. A command without an answer counts as given.
* `task.show` is no command: it is state, the newest counts, nobody acknowledges it.

## Heartbeats

Every service publishes `rig.heartbeat` 20 times a second from its start to its end, where `health` is "stopped". The
header says the instance. Actuation closes valve and LED when it has not heard task or decoding for 200 ms.

## What an external peer must do

A service that somebody else starts has `external = true` in the rig file. It

1. binds its `publish` endpoint (a PUB socket will do where it publishes no state) and connects to the others;
2. publishes `rig.heartbeat` 20 times a second with `health`, `protocol`, `rig_hash` and a header whose `instance` is
   new at each start, such as "decoding-" and 12 random hex digits;
3. publishes its own topics, numbered from 0, each with the `cause` of what it answers to;
4. sends state messages again to late joiners if it publishes any (XPUB with XPUB_VERBOSE tells of new subscribers).

`rig_hash` is the first 16 hex digits of the SHA-256 of the rig file's text (UTF-8, lines ending in a line feed). The
control socket is welcome but not needed. `bulk` and `control` are named in the rig file all the same.

## Changing places in a running session

A newcomer for a service binds three endpoints of its own and does all that the service does, from its first frame on.
Task names it in `rig.swap`. The others then connect to its `publish` endpoint, too, take care of its sequence numbers,
and obey nothing that it says. When `rig.swap` names it as `acting`, its word counts for messages whose cause is frame
`from_frame` or a later one, and for those without a cause from then on; its predecessor's for earlier frames. Neither
of the two need know of it. A peer that is told by `rig.swap` of an endpoint other than the rig file's connects there.

A program that `loop2p swap` or `loop2p conform` starts finds in its environment where to bind, and all else in the rig
file: `LOOP2P_RIG` (path of the rig file), `LOOP2P_RIG_HASH`, `LOOP2P_SERVICE`, `LOOP2P_PUBLISH`, `LOOP2P_BULK`,
`LOOP2P_CONTROL`; for those who had rather not read it, `LOOP2P_IMAGING`, `LOOP2P_TASK` and so on hold the `publish`
endpoint of each service, and `LOOP2P_KEYS` the folder of keys where the rig has keys. It is asked to end by its control
socket, if it has one, then by SIGTERM.

## Limits

| part | at most |
|---|---|
| topic | {topic} bytes |
| header | {header} bytes |
| body | {body} bytes |
| buffer | {buffer} bytes |
| buffers | {buffers} |

Keep times, offsets and counters within 64 bits, signed.

## How the protocol grows

* A new field with a default, or a new topic, keeps the number {protocol}: older peers skip what they do not know,
  newer peers take the default where it is missing.
* Anything else (a field removed, renamed, of another type or meaning) is a new protocol number. Then there is a
  function that upgrades old recordings, and a test that an old recording still reads.
* A message with another protocol number than one's own is dropped, and the start barrier refuses its sender.
* The number stands in one place, `PROTOCOL` in `loop2p/protocol/messages.py`; this page and the vectors are made
  from it.

## Golden vectors

`vectors/index.json` lists every file of `vectors/` with its `kind` (header, body, request, reply) and the `content`
that must be read from it; bytes are written as {{"hex": "..."}}. A body's entry names its topic, a header that goes
with it, and its buffers. There is a minimal example, with the required fields, and a full one, with every field at
another value than its default. A peer is right when it finds the stated content in every file, and when what it
writes for that content is read back the same: the order of keys, the width of integers and left-out defaults are
free.
"""

PEER = """\
## A peer in a few lines

Without any of our code, in Python with the `msgpack` package; in other languages it is the same. These are the parts
of the answer to a frame, ready for `send_multipart`:

```python
import msgpack


def answer(traces_parts, seq, now_ns):
    topic, header, body = (traces_parts[0], msgpack.unpackb(traces_parts[1]), msgpack.unpackb(traces_parts[2]))
    n_rois = len(body["f"]) // 4
    d = 0.25 if n_rois else 0.0  # your decoder's value
    return [
        b"decoding.output",
        msgpack.packb(
            {
                "protocol": header["protocol"],
                "source": "decoding",
                "instance": "decoding-0123456789ab",
                "seq": seq,
                "sent_ns": now_ns,
                "cause": header["cause"],
            }
        ),
        msgpack.packb({"type": "output", "d": d, "value": d}),
    ]
```
"""
