"""A decoder in 40 lines, with pyzmq and msgpack alone: python plain_decoder.py RIG_HASH IMAGING_PUB TASK_PUB MY_PUB"""

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
plus, minus, run_id, health, beat_ns, frames, ds = [], [], "", "ready", 0, deque(maxlen=464), deque([0.0], maxlen=3)


def publish(topic, body, cause=None):
    header = {"protocol": 1, "source": "decoding", "instance": instance, "seq": sent[topic], "sent_ns": now()}
    publisher.send_multipart([topic.encode(), msgpack.packb(header | {"cause": cause}), msgpack.packb(body)])
    sent[topic] += 1


while health == "ready":
    if subscriber.poll(20):
        topic, header, body = subscriber.recv_multipart()[:3]
        cause, body = msgpack.unpackb(header).get("cause"), msgpack.unpackb(body)
        if topic == b"task.selection":
            plus, minus = body["plus"], body["minus"]
        elif topic == b"rig.session":
            run_id = body["run_id"]
        elif body["plane"] == 0 and plus:
            if valid := body.get("valid", True):
                frames.append(f := array("f", body["f"]))
                dff = {k: f[k] / sorted(g[k] for g in frames)[len(frames) // 10] - 1 for k in plus + minus}
                ds.append(sum(dff[k] for k in plus) / len(plus) - sum(dff[k] for k in minus) / len(minus))
            value = {"d": ds[-1], "value": sum(ds) / len(ds), "valid": valid and len(frames) > 155}  # 10 s
            publish("decoding.output", {"type": "output"} | value, cause)
    if stop or now() >= beat_ns:  # 20 a second: without them the actuator is disarmed
        health, beat_ns = "stopped" if stop else "ready", now() + 50_000_000
        about = {"rig_hash": rig_hash, "run_id": run_id, "published": dict(sent)}
        publish("rig.heartbeat", {"type": "heartbeat", "protocol": 1, "health": health} | about)
