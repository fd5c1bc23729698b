"""A21: what must not show an error signal does not.

Level: mice. A twin has the mice of the main arm (same seed, same number of neurons, same rule of threshold) and lacks
the vector; so each mouse is compared with itself, over the days that both have. Judged are residuals less what events
of the same neuron nearby make of them, which looks like an error signal without any (neighbours.py); the residuals as
they are stand beside. Neuron-sessions count by what their events can tell (Contrast.precise_change_by_mouse).
"""

from msgspec import Struct, structs

from loop2p.analysis.arm import name_in_all_arms
from loop2p.analysis.contrast import Contrast, contrast
from loop2p.analysis.neighbours import residuals_less_neighbours
from loop2p.analysis.row import Arms, Found, MissingError, arm_of, loops_of, p_of, row, told
from loop2p.analysis.sessions import SessionData
from loop2p.analysis.statistics import Test, t_paired

TWINS = ("no-apical", "scalar", "permuted", "yoked")
AIM = 0.06


class Twin(Struct, frozen=True):
    """A control and the main arm in the same mice and days: residuals less neighbours."""

    name: str
    main: Contrast
    twin: Contrast
    test: Test
    """dd of main minus dd of the twin, over mice."""
    whole: tuple[Contrast, Contrast]
    """main, twin: of the residuals as they are."""

    @property
    def dd(self) -> tuple[float, float]:
        """Means over mice: main, twin."""
        return _mean_dd(self.main), _mean_dd(self.twin)

    @property
    def dd_whole(self) -> tuple[float, float]:
        """The same of the residuals as they are."""
        main, twin = map(_mean_dd, self.whole)
        return main, twin

    @property
    def changes(self) -> tuple[float, float]:
        """Reduction minus increase of P+ and of P- in the twin, means over mice."""
        plus, minus = (float(self.twin.precise_change_by_mouse(role).mean()) for role in ("plus", "minus"))
        return plus, minus

    @property
    def passes(self) -> bool:
        """Raises MissingError where there are too few mice."""
        main, twin = self.dd
        below = p_of(self.test) < 0.01 and self.test.estimate > 0 and abs(twin) < main / 2
        plus, minus = self.changes
        return below and (self.name != "scalar" or plus * minus > 0)


@row(
    "A21",
    "no vector without an apical vector: twins of the main arm that lack it show none",
    paper="none of its own",
    rule="each twin, by residuals less what events of the same neuron nearby make of them: P+ less P- (A13) of main "
    "minus twin > 0, p < .01; |twin| < half of main; scalar: P+ and P- change in the same direction",
    unmet="a twin of which only the p is too large may show nothing all the same: mice without a vector scatter, "
    "by .04 to .09 SD on simulated seed 41, and six are few",
)
def a21(arms: Arms) -> Found:
    twins = [twin_of(arms, name) for name in TWINS if name in arms]
    missing = [name for name in TWINS if name not in arms]
    if not twins:
        raise MissingError(f"the arms {', '.join(missing)}")
    passed = {twin.name: twin.passes for twin in twins}
    aim = all(abs(twin.dd[1]) <= AIM for twin in twins)
    aim_whole = all(abs(twin.dd_whole[1]) <= AIM for twin in twins)
    lines = [
        f"{twin.name} {'passes' if passed[twin.name] else 'FAILS'}: main less twin {twin.test.estimate:+.3f}, "
        f"{told([twin.test])}; as they are: {_whole(twin)}"
        for twin in twins
    ]
    return Found(
        "; ".join(_figures(twin) for twin in twins),
        None if missing else all(passed.values()),
        "; ".join([*lines, *([f"needs the arms {', '.join(missing)}"] if missing else [])]),
        [twin.test for twin in twins],
        f"each twin within +-{AIM:g}: {_reached(aim)}; as they are: {_reached(aim_whole)}",
    )


def twin_of(arms: Arms, name: str) -> Twin:
    """Raises MissingError for an arm that is no twin of main."""
    main, other = (_by_day(arms, arm) for arm in ("main", name))
    days = sorted(main.keys() & other.keys())
    if not days:
        raise MissingError(f"mice and days that both main and {name} have")
    for day in days:
        if len(main[day].role) != len(other[day].role):
            raise MissingError(f"as many neurons in {other[day].path} as in {main[day].path}: else it is no twin")
    sessions = [[arm[day] for day in days] for arm in (main, other)]
    own, twin = (contrast(arm, residuals_less_neighbours) for arm in sessions)
    whole = (contrast(sessions[0]), contrast(sessions[1]))
    what = f"z residual, reduction - increase of P+ less P-, main - {name}"
    return Twin(name, own, twin, t_paired(own.precise_dd, twin.precise_dd, what=what, level="mouse"), whole)


def _by_day(arms: Arms, name: str) -> dict[tuple[str, int], SessionData]:
    """An arm's loops by mouse and day, mice called as in all arms."""
    named = [structs.replace(s, mouse=name_in_all_arms(s.mouse, name)) for s in loops_of(arm_of(arms, name))]
    return {(s.mouse, s.day): s for s in named}


def _figures(twin: Twin) -> str:
    main, own = twin.dd
    plus, minus = twin.changes
    return f"{twin.name} {own:+.3f} (P+ {plus:+.3f}, P- {minus:+.3f}; main {main:+.3f})"


def _whole(twin: Twin) -> str:
    main, own = twin.dd_whole
    return f"{own:+.3f} (main {main:+.3f})"


def _mean_dd(found: Contrast) -> float:
    return float(found.precise_dd.mean())


def _reached(aim: bool) -> str:
    return "reached" if aim else "not reached"


ROWS = (a21,)
