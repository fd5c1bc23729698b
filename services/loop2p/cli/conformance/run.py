"""A program on the stage: two lives, all clauses."""

from collections.abc import Callable
from pathlib import Path

from loop2p.cli.conformance.actuation import ActuationTest
from loop2p.cli.conformance.decoding import DecodingTest
from loop2p.cli.conformance.everyone import Everyone
from loop2p.cli.conformance.imaging import ImagingTest
from loop2p.cli.conformance.recording import RecordingTest
from loop2p.cli.conformance.role import RoleTest
from loop2p.cli.conformance.stage import Stage
from loop2p.cli.conformance.stimulus import StimulusTest
from loop2p.cli.conformance.task import TaskTest
from loop2p.cli.conformance.toyrig import write
from loop2p.cli.conformance.verdict import Clause, Verdict, judge
from loop2p.cli.swapping.newcomer import Newcomer, fill_in, own_service, surroundings
from loop2p.protocol import Endpoints

TESTS: dict[str, type[RoleTest]] = {
    "imaging": ImagingTest,
    "decoding": DecodingTest,
    "task": TaskTest,
    "stimulus": StimulusTest,
    "actuation": ActuationTest,
    "recording": RecordingTest,
}


def try_out(
    service: str,
    command: list[str],
    folder: Path,
    own_values: bool = False,
    budget_ms: float | None = None,
    say: Callable[[Verdict], None] = lambda _: None,
) -> list[Verdict]:
    """Start the program (our own where the command is empty) and try every clause, each verdict said as it comes.

    Its first life ends by SIGTERM, the second by its control socket. `budget_ms`: of the latency's 99th percentile,
    None where it is not judged. Raises OSError where the program can't be started.
    """
    role = TESTS[service](folder, own_values, budget_ms)
    rig_file = write(folder, service, role.options())
    spec = rig_file.rig.services[service]
    at = Endpoints(spec.publish, spec.bulk, spec.control)
    values = surroundings(service, rig_file, at) | role.surroundings()
    filled = fill_in(command, values) if command else own_service(service, rig_file)
    program = Newcomer(filled, values, folder / "program.log", at)
    stage = role.stage = Stage(rig_file, service)
    everyone, verdicts = Everyone(stage, program, role), list[Verdict]()

    def died() -> str:
        code = program.code
        return "" if code is None else f"the program has ended with code {code}: {program.last_words(3)}"

    def go_through(clauses: list[Clause]) -> None:
        for clause in clauses:
            verdicts.append(judge(clause, died))
            say(verdicts[-1])

    try:
        with role.around():
            program.start()
            go_through([*everyone.first(), *role.clauses(), *everyone.last()])
            program.end(None)
            program.start()
            go_through(everyone.again())
    finally:
        if program.process is not None:
            program.end(None)
        stage.close()
    return verdicts
