"""When a service that died may start again."""

from collections import deque

DELAYS_S = (0.5, 1.0, 2.0)
WINDOW_S = 600.0


class RestartPolicy:
    """After 0.5, 1, 2 s, at most 3 times in 10 minutes; then the session stops."""

    def __init__(self) -> None:
        self._starts: deque[float] = deque()

    def delay_s(self, now_s: float) -> float | None:
        """How long to wait before starting again; None: no more."""
        while self._starts and now_s - self._starts[0] > WINDOW_S:
            self._starts.popleft()
        if len(self._starts) >= len(DELAYS_S):
            return None
        delay = DELAYS_S[len(self._starts)]
        self._starts.append(now_s)
        return delay
