"""Readers of the operator's page, for its benchmark: connect, read all, count. PORT N SECONDS; prints JSON."""

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

from websockets.asyncio.client import connect

SKIPPED_S = 3.0
"""The first seconds are not counted, as the benchmark does not count them."""


async def reader(port: int, seconds: float, ready: asyncio.Barrier) -> dict[str, float]:
    """What one reader got: rows, pictures and bytes a second."""
    origin: Any = f"http://127.0.0.1:{port}"
    rows = pictures = size = 0
    deadline = time.monotonic() + 60
    async with AsyncExitStack() as stack:
        while True:
            try:
                found = connect(f"ws://127.0.0.1:{port}/live", origin=origin, compression=None, max_size=None)
                socket = await stack.enter_async_context(found)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)
        await ready.wait()
        begin = time.monotonic() + SKIPPED_S
        while (now := time.monotonic()) < begin + seconds:
            message = await socket.recv()
            if now < begin:
                continue
            size += len(message)
            if isinstance(message, bytes):
                pictures += 1
            elif message.startswith('{"kind":"samples"'):
                rows += len(json.loads(message)["rows"])
    return {"rows_per_s": rows / seconds, "pictures_per_s": pictures / seconds, "kb_per_s": size / seconds / 1e3}


async def main(port: int, n: int, seconds: float) -> None:
    ready = asyncio.Barrier(n + 1)
    tasks = [asyncio.create_task(reader(port, seconds, ready)) for _ in range(n)]
    await ready.wait()
    print("connected", flush=True)
    found = await asyncio.gather(*tasks)
    print(json.dumps({key: min(one[key] for one in found) for key in found[0]}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
