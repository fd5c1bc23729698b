"""Arms of small sessions whose answers are planted: how residuals go with the error, with a hit, with the LED."""

from pathlib import Path

import numpy as np
from msgspec import structs

from loop2p.analysis.arm import Arm
from loop2p.analysis.epochs import error_epochs
from loop2p.analysis.network import Network
from loop2p.analysis.outcome import Outcomes
from loop2p.analysis.sessions import PlaneEvents, SessionData

ROLE = np.array(["plus"] * 4 + ["minus"] * 4 + ["other"] * 30)
TRIAL_S = 20.0
END_S = 14.0
"""Of a trial: its hit, or the begin of its timeout."""
PASSIVE_S = 300.0
NO_EVENTS = PlaneEvents(np.zeros(0), np.zeros(0, np.int64), np.zeros(0))


def toy_session(
    mouse: str = "m0", day: int = 1, error: float = 0.0, hit: float = 0.0, lit: float = 0.0, n_trials: int = 40,
    hits: float = 0.6, passive: tuple[str, ...] = ("",),
) -> SessionData:  # fmt: skip
    """Passive blocks of PASSIVE_S each, then trials of TRIAL_S. Residuals, in SD of the noise about the line
    dendrite = 0.5 + 0.7 soma:

    error: + in P+ while the error falls and - while it grows, the other way round in P-; 0 in P0
    hit: + in all neurons in the second after a hit
    lit: + in all neurons in the last passive block
    """  # fmt: skip
    rng = np.random.default_rng([7, *mouse.encode(), day])
    loop_s = PASSIVE_S * len(passive)
    stop_s = loop_s + n_trials * TRIAL_S
    start_s = loop_s + np.arange(n_trials) * TRIAL_S
    won = rng.permutation(n_trials) < hits * n_trials
    end_s = start_s + END_S
    pictures = [(np.arange(0, loop_s, 2.0), rng.choice([0.0, 30.0, 60.0, 90.0], int(loop_s // 2)))]
    pictures += [(start_s, np.full(n_trials, np.nan))]
    for at, low, high in ((0.5, 45, 46), (4.5, 0, 90), (8.5, 15, 90)):
        pictures.append((start_s + at, 15 * np.round(rng.uniform(low, high, n_trials) / 15)))
    pictures += [(end_s[won], np.full(won.sum(), 90.0)), (end_s + np.where(won, 2, 0), np.full(n_trials, np.nan))]
    at = np.concatenate([t for t, _ in pictures])
    order = np.argsort(at, kind="stable")
    names = [("baseline", name, k * PASSIVE_S, (k + 1) * PASSIVE_S) for k, name in enumerate(passive)]
    session = SessionData(
        path=Path(f"{mouse}-{day}.nwb"), mouse=mouse, day=day, role=ROLE, start_s=start_s,
        outcome=np.where(won, "hit", "miss"), hit_s=np.where(won, end_s, np.nan),
        reward_s=np.where(won, end_s + 1, np.nan), phases=[*names, ("closed_loop", "", loop_s, stop_s)],
        shown_s=at[order], shown_deg=np.concatenate([a for _, a in pictures])[order],
        lick_s=np.sort(rng.uniform(0, stop_s, int(stop_s))), speed_cm_s=rng.uniform(2, 4, int(stop_s)),
        speed_t_s=np.arange(int(stop_s)) + 0.5, events={},
    )  # fmt: skip
    n = rng.poisson(0.12 * stop_s, len(ROLE))
    t_s, roi = rng.uniform(0, stop_s, n.sum()), np.repeat(np.arange(len(ROLE)), n)
    by_cell = np.lexsort((t_s, roi))
    t_s, roi = t_s[by_cell], roi[by_cell]
    close = (np.diff(t_s, prepend=-2.0) < 1) & (np.diff(roi, prepend=-1) == 0)  # two events, easily taken for one
    t_s, roi = t_s[~close], roi[~close]
    by_time = np.argsort(t_s)
    t_s, roi = t_s[by_time], roi[by_time]
    role = np.select([ROLE[roi] == "plus", ROLE[roi] == "minus"], [1, -1], 0)
    trial = (np.searchsorted(start_s, t_s, "right") - 1).clip(0)
    since_s = t_s - end_s[trial]
    in_hit = (since_s >= 0) & (since_s < 1) & won[trial]
    in_last = (t_s < loop_s) & (t_s >= loop_s - PASSIVE_S) & (len(passive) > 1)
    signal = error * role * error_epochs(session).at(t_s) + hit * in_hit + lit * in_last
    soma = rng.lognormal(-0.4, 0.4, len(t_s))
    dendrite = 0.5 + 0.7 * soma + 0.05 * (rng.standard_normal(len(t_s)) + signal)
    events = {0: PlaneEvents(t_s, roi, soma), 1: PlaneEvents(t_s + 0.05, roi, dendrite)}
    return structs.replace(session, events=events)


def toy_arm(name: str = "main", n_mice: int = 3, n_days: int = 2, **planted: float) -> Arm:
    """Sessions alone; a mouse is called as the simulated ones are."""
    blocks = {"ndnf": ("led-off", "led-on"), "led": ("led-off", "led-on"), "anaesthesia": ("awake", "anaesthetised")}
    passive = blocks.get(name, ("",))
    mice = [f"sim-{name}-{k}" for k in range(n_mice)]
    days = range(1, n_days + 1)
    return Arm(name, [toy_session(mouse, day, passive=passive, **planted) for mouse in mice for day in days])


def toy_outcomes(arm: Arm, margin: float) -> Outcomes:
    """Accuracy `margin` above shuffles that lie about .5, in both epochs."""
    rng, n = np.random.default_rng(3), len(arm.sessions)
    chance = 0.5 + 0.02 * rng.standard_normal((n, 2))
    told = chance + margin + 0.01 * rng.standard_normal((n, 2))
    return Outcomes(
        mouse=np.array([s.mouse for s in arm.sessions]), day=np.array([s.day for s in arm.sessions]),
        n=np.tile([24, 16], (n, 1)), accuracy=told, shuffled=chance, balanced=told, balanced_shuffled=chance,
        exchanged=chance, balanced_exchanged=chance,
        residual=0.1 * rng.standard_normal((n, 2, 2, 3)),
    )  # fmt: skip


def toy_network(arm: Arm, n_told: int = 3) -> Network:
    """Six neurons a session, the first `n_told` told by the network."""
    rng, n = np.random.default_rng(4), 6 * len(arm.sessions)
    told = np.tile(np.arange(6) < n_told, len(arm.sessions))
    return Network(
        mouse=np.repeat([s.mouse for s in arm.sessions], 6), day=np.repeat([s.day for s in arm.sessions], 6),
        roi=np.tile([0, 4, 8, 1, 5, 9], len(arm.sessions)), n_events=np.full(n, 80),
        role=np.tile(["plus", "minus", "other"] * 2, len(arm.sessions)),
        accuracy=0.5 + 0.12 * told + 0.01 * rng.standard_normal(n), r=0.3 * told + 0.01 * rng.standard_normal(n),
        p=np.where(told, 0.05, 0.5), accuracy_shuffled=0.5 + 0.03 * rng.standard_normal((n, 19)),
        r_shuffled=0.05 * rng.standard_normal((n, 19)),
    )  # fmt: skip


def toy_arms(n_mice: int = 3, n_days: int = 2) -> dict[str, Arm]:
    """All that a figure can ask for."""
    arms = {
        "main": toy_arm("main", n_mice, n_days, error=1.0, hit=1.0),
        "led": toy_arm("led", n_mice, n_days, error=1.0),
        "ndnf": toy_arm("ndnf", n_mice, n_days, lit=-3.0),
        "anaesthesia": toy_arm("anaesthesia", n_mice, 1, lit=-2.0),
        **{name: toy_arm(name, n_mice, n_days) for name in ("no-apical", "scalar", "permuted", "yoked")},
    }
    main = arms["main"]
    like = [np.where(ROLE == "other", np.tile(["plus", "minus", "other"], len(ROLE))[: len(ROLE)], "other")]
    arms["main"] = structs.replace(
        main, dff=main.sessions, like=like * len(main.sessions), network=toy_network(main),
        outcomes=toy_outcomes(main, 0.1),
    )  # fmt: skip
    arms["ndnf"] = structs.replace(arms["ndnf"], outcomes=toy_outcomes(arms["ndnf"], 0.0))
    return arms
