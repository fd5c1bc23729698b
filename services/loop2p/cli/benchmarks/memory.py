"""How much memory a program takes, with all processes that it started."""

import threading


class Memory:
    """The largest resident memory in bytes, looked at twice a second."""

    def __init__(self) -> None:
        self.most = 0
        """Of this process and all its children together."""
        self.most_of_one = 0
        """Of a child."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        import psutil

        me = psutil.Process()
        while not self._over.wait(0.5):
            total = me.memory_info().rss
            for process in me.children(recursive=True):
                try:
                    own = process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
                total += own
                self.most_of_one = max(self.most_of_one, own)
            self.most = max(self.most, total)
