"""`loop2p metrics`: what Prometheus must know of a rig, from its rig file."""

import json
import shutil
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from loop2p.cli.main import Json, RigPath, err, fail, open_rig, out, print_json
from loop2p.protocol import Rig

JOB = "loop2p"
RULES = Path("deploy/prometheus")
ANY_ADDRESS = ("0.0.0.0", "*")
LOOPBACK = ("127.0.0.1", "localhost")


class Target(NamedTuple):
    """One endpoint to scrape."""

    address: str
    """host:port as Prometheus reaches it."""
    service: str
    host: str


def targets(rig: Rig) -> list[Target]:
    """The metrics endpoints of all services that have one; "0.0.0.0" becomes the host's address."""
    found = []
    for name, spec in rig.services.items():
        if spec.metrics:
            bound, port = spec.metrics.rsplit(":", 1)
            where = rig.hosts.get(spec.host, "127.0.0.1") if bound in ANY_ADDRESS else bound
            found.append(Target(f"{where}:{port}", name, spec.host))
    return found


def unreachable(rig: Rig) -> list[str]:
    """A line for each service that Prometheus can't see, or only from its own machine."""
    several = len({spec.host for spec in rig.services.values()}) > 1
    lines = []
    for name, spec in rig.services.items():
        if not spec.metrics:
            lines.append(f'{name} has no metrics: give it metrics = "host:port" in the rig file')
        elif several and spec.metrics.rsplit(":", 1)[0] in LOOPBACK:
            lines.append(f"{name} shows metrics to its own machine alone ({spec.metrics} on {spec.host})")
    return lines


def scrape_config(rig: Rig, rule_files: list[str], every_s: float) -> str:
    """prometheus.yml: one job, a target for each service."""

    def quoted(text: str) -> str:
        return json.dumps(text)  # a JSON string is a YAML string

    every_ms = f"{round(every_s * 1000)}ms"
    lines = [
        f"# Of the rig {quoted(rig.name)}, written by `loop2p metrics`.",
        f"global: {{scrape_interval: {every_ms}, scrape_timeout: {every_ms}, evaluation_interval: {every_ms}}}",
        "rule_files:",
        *(f"  - {quoted(name)}" for name in rule_files),
        "scrape_configs:",
        f"  - job_name: {JOB}",
        "    honor_labels: true  # services name themselves",
        "    static_configs:",
    ]
    for target in targets(rig):
        labels = {"service": target.service, "host": target.host, "rig": rig.name}
        text = ", ".join(f"{key}: {quoted(value)}" for key, value in labels.items())
        lines += [f"      - targets: [{quoted(target.address)}]", f"        labels: {{{text}}}"]
    return "\n".join(lines) + "\n"


def metrics(
    rig: RigPath,
    folder: Annotated[
        Path | None, typer.Option("--out", help="where to write; else `prometheus` in the data folder")
    ] = None,
    rules: Annotated[Path, typer.Option(help="folder of recording and alert rules")] = RULES,
    every_s: Annotated[float, typer.Option(min=0.1, help="seconds between two scrapes")] = 5.0,
    json: Json = False,
) -> None:
    """Write what Prometheus needs to watch this rig: its configuration, and the rules beside it."""
    rig_file = open_rig(rig)
    found = sorted(rules.glob("*.rules.yml"))
    if not found:
        fail(f"{rules}: no *.rules.yml here, expected deploy/prometheus of the checkout; name it by --rules")
    if not targets(rig_file.rig):
        fail(f'{rig}: no service has metrics; expected metrics = "host:port" in [services.NAME]')
    folder = folder or Path(rig_file.rig.data.folder) / "prometheus"
    config = folder / "prometheus.yml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in found:
            shutil.copyfile(path, folder / path.name)
        config.write_text(scrape_config(rig_file.rig, [path.name for path in found], every_s), encoding="utf-8")
    except (OSError, shutil.SameFileError) as error:
        fail(f"{folder}: {error}")
    for line in unreachable(rig_file.rig):
        err.print(line, markup=False, soft_wrap=True)
    if json:
        print_json({"config": str(config), "rules": [path.name for path in found]})
        return
    out.print(
        f"{config}\nprometheus --config.file={config} --storage.tsdb.path={folder / 'data'} "
        "--web.listen-address=127.0.0.1:9090",
        markup=False,
        soft_wrap=True,
    )
