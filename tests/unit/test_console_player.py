"""A recording on the page: what it shows at a moment is what the live page had shown then, however one got there."""

from itertools import pairwise

import pytest
from msgspec import to_builtins
from rigs import rig_text
from synthetic_session import Made, make_session

from loop2p.console.core import PageView
from loop2p.console.player import BEAT_NS, COPY_S, Player
from loop2p.protocol import Heartbeat, Phase, Trial, parse_rig

RIG = parse_rig(rig_text(list(range(5500, 5530)), "runs"), "rig.toml").rig
BUDGET_MS = 32.0


@pytest.fixture(scope="module")
def made() -> Made:
    return make_session(seconds=150)


def player_of(made: Made) -> Player:
    return Player(RIG, BUDGET_MS, made.envelopes)


def shown(player: Player) -> object:
    return to_builtins(player.view.page(player.t_s))


def test_it_shows_what_the_live_page_showed(made: Made) -> None:
    player = player_of(made)
    begin_ns = min(at for at, _ in made.envelopes)
    for t_s in (30.0, 75.3, 140.0):
        player.seek(t_s)
        live = PageView(RIG, BUDGET_MS)
        for at_ns, envelope in sorted(made.envelopes, key=lambda record: record[0]):
            if at_ns <= begin_ns + t_s * 1e9:
                live.take(envelope, (at_ns - begin_ns) / 1e9, player.unix_s - player.t_s + (at_ns - begin_ns) / 1e9)
        assert shown(player) == to_builtins(live.page(t_s))


def test_a_moment_is_the_same_from_before_and_from_behind(made: Made) -> None:
    forward, back = player_of(made), player_of(made)
    back.seek(149.0)
    for t_s in (COPY_S + 30.0, COPY_S - 1.0, 0.0, 100.0):
        back.seek(t_s)
        forward = player_of(made)
        forward.seek(t_s)
        assert shown(back) == shown(forward)
        assert back.view.samples.since(0)[1] == forward.view.samples.since(0)[1]


def test_going_back_sends_the_charts_anew(made: Made) -> None:
    player = player_of(made)
    player.seek(120.0)
    before, epoch = player.view.samples.count, player.view.samples.epoch
    player.seek(80.0)
    samples = player.view.samples
    assert samples.epoch > epoch
    first, rows = samples.since(before)  # who had all rows so far
    assert first >= before
    assert rows
    assert samples.count == first + len(rows)
    assert all(a[0] < b[0] for a, b in pairwise(rows) if a[0] is not None and b[0] is not None)


def test_it_plays_to_the_end_and_stops(made: Made) -> None:
    player = player_of(made)
    player.tick(5.0)
    assert player.moment.t_s == 0.0, "it does not play yet"
    player.playing, player.speed = True, 16.0
    player.tick(5.0)
    assert player.moment.t_s == 80.0
    player.tick(100.0)
    assert (player.moment.t_s, player.moment.playing) == (player.moment.end_s, False)


@pytest.mark.parametrize("t_s", [-3.0, 1e6])
def test_a_moment_outside_is_the_nearest_inside(made: Made, t_s: float) -> None:
    player = player_of(made)
    player.seek(t_s)
    assert player.t_s == (0.0 if t_s < 0 else player.end_s)


def test_marks_are_phases_and_how_trials_ended(made: Made) -> None:
    marks = player_of(made).marks()
    ended = [e for _, e in made.envelopes if isinstance(e.message, Trial) and e.message.edge != "start"]
    phases = [e for _, e in made.envelopes if isinstance(e.message, Phase)]
    assert len(marks) == len(ended) + len(phases) > 5
    assert [m.t_s for m in marks] == sorted(m.t_s for m in marks)
    assert any(m.text.endswith(": hit") for m in marks)


def test_heartbeats_that_say_nothing_new_are_left_out(made: Made) -> None:
    player = player_of(made)
    kept = [(at, e) for at, e in player._records if e.topic == Heartbeat.topic]
    assert 0 < len(kept) < sum(e.topic == Heartbeat.topic for _, e in made.envelopes)
    for source in {e.header.source for _, e in kept}:
        times = [at for at, e in kept if e.header.source == source]
        assert all(b - a >= BEAT_NS for a, b in pairwise(times))


def test_a_journal_with_nothing_to_show_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing in the journal"):
        Player(RIG, BUDGET_MS, [])
