"""A decoder in 40 lines, with pyzmq and msgpack alone: python plain_decoder.py RIG_HASH IMAGING_PUB TASK_PUB MY_PUB"""

import array
import collections
import sys
import time
import uuid

import msgpack
import zmq

rig_hash, imaging, task, mine = sys.argv[1:5]
context, instance, sent = zmq.Context(), f"plain-{uuid.uuid4().hex[:8]}", collections.Counter()
publisher, subscriber = context.socket(zmq.PUB), context.socket(zmq.SUB)
publisher.bind(mine)
for endpoint, topic in ((imaging, b"imaging.traces"), (task, b"task.selection"), (task, b"rig.session")):
    subscriber.connect(endpoint)
    subscriber.subscribe(topic)
plus, minus, run_id, frames, ds = [], [], "", collections.deque(maxlen=464), collections.deque(maxlen=3)


def publish(topic, body, cause=None):
    header = {"protocol": 1, "source": "decoding", "instance": instance, "seq": sent[topic]}
    header |= {"sent_ns": time.perf_counter_ns(), "cause": cause}
    sent[topic] += 1
    publisher.send_multipart([topic.encode(), msgpack.packb(header), msgpack.packb(body)])


while True:
    ready = subscriber.poll(50)
    published = {topic: n for topic, n in sent.items()}
    publish("rig.heartbeat", {"type": "heartbeat", "health": "ready", "protocol": 1, "rig_hash": rig_hash,
                              "run_id": run_id, "published": published})  # fmt: skip
    for _ in range(100 if ready else 0):
        topic, header, body = subscriber.recv_multipart()[:3]
        cause, body = msgpack.unpackb(header).get("cause"), msgpack.unpackb(body)
        if topic == b"task.selection":
            plus, minus = body["plus"], body["minus"]
            frames.clear()
        elif topic == b"rig.session":
            run_id = body["run_id"]
        elif body["plane"] == 0 and plus and body.get("valid", True):
            f = array.array("f", body["f"])
            frames.append(f)
            dff = {k: f[k] / sorted(g[k] for g in frames)[len(frames) // 10] - 1 for k in plus + minus}
            ds.append(sum(dff[k] for k in plus) / len(plus) - sum(dff[k] for k in minus) / len(minus))
            value = {"d": ds[-1], "value": sum(ds) / len(ds), "valid": len(frames) >= 155}
            publish("decoding.output", {"type": "output"} | value, cause)
        if not subscriber.poll(0):
            break
