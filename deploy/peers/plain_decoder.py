"""A decoder in 50 lines, with pyzmq and msgpack alone: python plain_decoder.py RIG_HASH IMAGING_PUB TASK_PUB MY_PUB"""

import signal
import sys
from array import array
from collections import Counter, deque
from time import perf_counter_ns as now

import msgpack
import zmq

rig_hash, imaging, task, mine = sys.argv[1:5]
context, instance, sent, stop = zmq.Context(), f"plain-{now():x}", Counter(), []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: stop.append(True))
publisher, subscriber = context.socket(zmq.PUB), context.socket(zmq.SUB)
publisher.bind(mine)
for endpoint, topic in ((imaging, "imaging.traces"), (task, "task.selection"), (task, "rig.session")):
    subscriber.connect(endpoint)
    subscriber.subscribe(topic)
# F0 is the lowest tenth of the last 464 frames, 30 s at 15.46 Hz; the control value the mean of 3 frames
rois, told, frames, ds = [], {"rejected": 0}, deque(maxlen=464), deque([0.0], maxlen=3)
health, beat_ns = "ready", 0


def publish(topic, body, cause=None):
    header = {"protocol": 1, "source": "decoding", "instance": instance, "seq": sent[topic], "sent_ns": now()}
    publisher.send_multipart([topic.encode(), msgpack.packb(header | {"cause": cause}), msgpack.packb(body)])
    sent[topic] += 1


def dff(k):
    low, column = (len(frames) - 1) / 10, sorted(f[k] for f in frames)
    a, b = column[int(low)], column[min(int(low) + 1, len(column) - 1)]
    return frames[-1][k] / (a + (low % 1) * (b - a)) - 1


def take(topic, header, body, *buffers):
    header, body = msgpack.unpackb(header), msgpack.unpackb(body)
    if header["protocol"] != 1 or header["source"] not in ("imaging", "task") or len(buffers) > 8:
        raise ValueError(header)
    if topic == b"task.selection":
        rois[:] = [int(k) for k in body["plus"]], [int(k) for k in body["minus"]]
    elif topic == b"rig.session":
        told["run_id"] = str(body["run_id"])
    elif body["plane"] == 0 and rois:
        if valid := body.get("valid", True):
            frames.append(array("f", body["f"]))
            ds.append(sum(map(dff, rois[0])) / len(rois[0]) - sum(map(dff, rois[1])) / len(rois[1]))
        value = {"d": ds[-1], "value": sum(ds) / len(ds), "valid": valid and len(frames) > 155}  # 10 s
        publish("decoding.output", {"type": "output"} | value, header["cause"])


while health == "ready":
    if subscriber.poll(20):
        try:
            take(*subscriber.recv_multipart())
        except Exception:  # whatever was sent: it is counted and dropped
            told["rejected"] += 1
    if stop or now() >= beat_ns:  # 20 a second: without them the actuator is disarmed
        health, beat_ns = "stopped" if stop else "ready", max(beat_ns + 50_000_000, now())
        about = {"protocol": 1, "health": health, "rig_hash": rig_hash, "published": dict(sent)}
        publish("rig.heartbeat", {"type": "heartbeat"} | about | told)
