"""A clock that becomes unclear in a session: paused, told by name, and gone on with when it is good again."""

from msgspec import structs
from test_task_service import MS, Bench, bench, make_bench, phases  # noqa: F401 (bench and make_bench are fixtures)

from loop2p.protocol import Alarm, Clock, Trial

LIMIT_NS = 1 * MS


def know(subject: Bench, name: str, bound_ns: int) -> None:
    """From now on that service knows its clock so well."""
    hear = Bench.hear

    def changed(message, source):
        if isinstance(message, Clock) and source == name:
            message = structs.replace(message, bound_ns=bound_ns)
        hear(subject, message, source)

    subject.hear = changed  # type: ignore[method-assign]


def alarms(messages) -> list[tuple[bool, str]]:
    return [(m.active, m.detail) for m in messages if isinstance(m, Alarm) and m.code == "clock-unclear"]


def test_the_trial_is_void_the_machine_named_and_the_session_goes_on_by_itself(bench: Bench):  # noqa: F811
    bench.wait(0.1)
    bench.start()
    assert not alarms(bench.frames([0.0] * 60))
    know(bench, "imaging", LIMIT_NS + 500_000)
    out = bench.frames([0.0] * 5)
    assert [(e.edge, e.reason) for e in out if isinstance(e, Trial)][-1][0] == "void"
    assert phases(out)[-1] == "paused"
    told = alarms(out)
    assert [active for active, _ in told] == [True]
    assert "imaging on local: clock known to +-1.50 ms, expected +-1 ms" in told[0][1]
    assert bench.ask("resume").reason.startswith("imaging.clock: ")
    know(bench, "imaging", LIMIT_NS // 2)
    assert phases(bench.frames([0.0] * 60)) == [], "less than 5 s: it may hover at the limit"
    out = bench.frames([0.0] * 30)
    assert phases(out)[-1] == "closed_loop"
    assert alarms(out) == [(False, "every clock is known well enough again")]


def test_an_override_lets_it_run_on(bench: Bench):  # noqa: F811
    bench.wait(0.1)
    bench.start(overrides="imaging.clock")
    know(bench, "imaging", 9 * LIMIT_NS)
    out = bench.frames([0.0] * 60)
    assert (phases(out), alarms(out)) == ([], [])


def test_an_operator_who_paused_meanwhile_is_waited_for(bench: Bench):  # noqa: F811
    bench.wait(0.1)
    bench.start()
    know(bench, "stimulus", 9 * LIMIT_NS)
    bench.frames([0.0] * 5)
    assert bench.ask("pause").accepted
    know(bench, "stimulus", 0)
    assert "closed_loop" not in phases(bench.frames([0.0] * 200))
    assert bench.ask("resume").accepted
