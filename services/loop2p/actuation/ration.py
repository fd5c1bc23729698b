"""How much an animal has had today, and what is left. Kept through restarts: a restart never resets a limit."""

from msgspec import Struct, field


class Ration(Struct):
    """The day's count, as it stands in the ration file. Changed in place; totals only rise within a day.

    `day` is an ISO date, which sorts as time does. Animals and runs are names; "" before a session is known.
    """

    day: str = ""
    animal: str = ""
    run: str = ""
    ul: dict[str, float] = field(default_factory=dict)
    """Animal -> microlitres today."""
    led_s: dict[str, float] = field(default_factory=dict)
    """Animal -> seconds of LED light today."""
    runs: dict[str, float] = field(default_factory=dict)
    """Run -> microlitres."""
    boot_id: int = -1
    """The controller's boot that the next two belong to; -1 for none yet."""
    boot_open_ms: float = 0.0
    """Valve open time that is in the count already."""
    boot_led_ms: float = 0.0

    @property
    def day_ul(self) -> float:
        return self.ul.get(self.animal, 0.0)

    @property
    def session_ul(self) -> float:
        return self.runs.get(self.run, 0.0)

    @property
    def day_led_s(self) -> float:
        return self.led_s.get(self.animal, 0.0)

    def begin_day(self, today: str) -> None:
        """Start afresh on a later day; a wall clock that went back changes nothing. A run goes on over midnight."""
        if today > self.day:
            self.day = today
            self.ul, self.led_s = {}, {}
            self.runs = {self.run: self.session_ul}

    def begin_session(self, run: str, animal: str) -> None:
        """Who is on the rig now. What was had before a session was known counts for its animal and run."""
        for totals, old, new in ((self.ul, self.animal, animal), (self.led_s, self.animal, animal)):
            if old == "" != new:
                totals[new] = totals.get(new, 0.0) + totals.pop("", 0.0)
        if self.run == "" != run:
            self.runs[run] = self.runs.get(run, 0.0) + self.runs.pop("", 0.0)
        self.run, self.animal = run, animal

    def book(self, ul: float, open_ms: float) -> None:
        """Count a reward before it is given: one that is never answered for counts as given."""
        self.ul[self.animal] = self.day_ul + ul
        self.runs[self.run] = self.session_ul + ul
        self.boot_open_ms += open_ms

    def reconcile(self, boot_id: int, open_ms: int, led_ms: int, ul_per_ms: float, booted_today: bool) -> bool:
        """Take the controller's own totals since its boot; the larger count stands. True if ours grew.

        LED time is known from here alone. Open time beyond what was booked (a lost file, another host) is
        counted at `ul_per_ms`. Of a boot never met before, all counts are today's if it booted today, else none
        can be told to be, and counting starts now.
        """
        if boot_id != self.boot_id:
            self.boot_id = boot_id
            self.boot_open_ms, self.boot_led_ms = (0.0, 0.0) if booted_today else (open_ms, led_ms)
        more_open_ms, more_led_ms = open_ms - self.boot_open_ms, led_ms - self.boot_led_ms
        if more_open_ms > 0:
            self.book(more_open_ms * ul_per_ms, more_open_ms)
        if more_led_ms > 0:
            self.led_s[self.animal] = self.day_led_s + more_led_ms / 1000
            self.boot_led_ms = led_ms
        return more_open_ms > 0 or more_led_ms > 0
