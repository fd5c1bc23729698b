"""Another program on LSL, as a process of its own: sends a stream or reads one, told by lines on standard input.

python lsl_peer.py read NAME...           prints a JSON line for the streams when all are found, then one for each chunk
python lsl_peer.py send NAME TYPE RATE FORMAT N_CHANNELS [SOURCE_ID]
                                          prints "open"; each line of standard input, a JSON [values, stamp], is sent,
                                          and how LSL's clock stood to perf_counter is printed
"""

import json
import sys
import time
from typing import Any

import pylsl


def clocks() -> tuple[int, float]:
    """(perf_counter ns, LSL's clock s) of one moment, the tightest of 20 looks."""
    looks = []
    for _ in range(20):
        early_ns = time.perf_counter_ns()
        lsl_s = pylsl.local_clock()
        late_ns = time.perf_counter_ns()
        looks.append((late_ns - early_ns, (early_ns + late_ns) // 2, lsl_s))
    return min(looks)[1:]


def say(value: Any) -> None:
    print(json.dumps(value), flush=True)


def read(names: list[str]) -> None:
    inlets = {}
    for name in names:
        found: list[Any] = []
        while not found:
            found = pylsl.resolve_bypred(f"name='{name}'", 1, 1.0)
        inlets[name] = pylsl.StreamInlet(found[0], recover=False)
        inlets[name].open_stream(30)
    infos = {name: inlet.info(30) for name, inlet in inlets.items()}
    say(
        {
            name: {
                "labels": info.get_channel_labels(),
                "units": info.get_channel_units(),
                "rate": info.nominal_srate(),
                "about": {
                    key: info.desc().child("loop2p").child_value(key)
                    for key in ("rig", "clock_bound_s", "lsl_minus_rig_clock_s", "simulated")
                },
            }
            for name, info in infos.items()
        }
    )
    while True:
        for name, inlet in inlets.items():
            samples, stamps_s = inlet.pull_chunk(0.02, 1000)
            if stamps_s:
                say({"stream": name, "samples": samples, "stamps": stamps_s, "clocks": clocks()})


def send(name: str, kind: str, rate: str, form: str, n_channels: str, source_id: str = "peer") -> None:
    info = pylsl.StreamInfo(name, kind, int(n_channels), float(rate), form, source_id)
    if form != "string":
        info.set_channel_labels([f"c{k}" for k in range(int(n_channels))])
        info.set_channel_units(["mm"] * int(n_channels))
    outlet = pylsl.StreamOutlet(info, 0, 60)
    say("open")
    for line in sys.stdin:
        if line == "wait\n":
            while not outlet.have_consumers():
                time.sleep(0.01)
            say("read")
            continue
        values, stamp_s = json.loads(line)
        outlet.push_sample(values, stamp_s if stamp_s is not None else pylsl.local_clock())
        say(clocks())


if __name__ == "__main__":
    {"read": read, "send": send}[sys.argv[1]](*([sys.argv[2:]] if sys.argv[1] == "read" else sys.argv[2:]))
