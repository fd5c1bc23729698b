"""The dashboard of a rig, as code: `python deploy/grafana/dashboard.py` writes loop2p.json beside this file.

The library builds dashboards of Grafana 10.1 and newer; it does not validate them.
"""

from pathlib import Path

from grafana_foundation_sdk.builders.common import VizTooltipOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable, Row
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as Timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueGraphMode, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

FILE = Path(__file__).with_name("loop2p.json")
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
RIG = 'rig="$rig"'
Query = tuple[str, str]
"""PromQL, and the legend."""


def filled(panel: Timeseries | Stat, title: str, unit: str, queries: tuple[Query, ...], text: str, width: int):
    """A panel with its queries; `text`: what it means, shown at the panel's corner."""
    panel = panel.title(title).description(text).unit(unit).datasource(SOURCE).height(8).span(width)
    for k, (expr, legend) in enumerate(queries):
        panel = panel.with_target(Dataquery().expr(expr).legend_format(legend).ref_id(chr(ord("A") + k)))
    return panel


def graph(title: str, unit: str, *queries: Query, text: str = "", width: int = 8) -> Timeseries:
    panel = Timeseries().tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    return filled(panel, title, unit, queries, text, width)


def number(title: str, unit: str, *queries: Query, text: str = "", width: int = 4) -> Stat:
    return filled(Stat().graph_mode(BigValueGraphMode.NONE), title, unit, queries, text, width)


ROWS = {
    "Session": (
        number("services up", "short", (f'sum(up{{job="loop2p", {RIG}}})', "up"), text="six are expected"),
        number(
            "session",
            "short",
            (f"loop2p_task_session_running{{{RIG}}}", "runs"),
            (f"loop2p_task_session_paused{{{RIG}}}", "paused"),
        ),
        number(
            "trials",
            "short",
            (f"loop2p_task_trials_hit_total{{{RIG}}}", "hit"),
            (f"loop2p_task_trials_miss_total{{{RIG}}}", "miss"),
            (f"loop2p_task_trials_void_total{{{RIG}}}", "void"),
        ),
        number("given today", "litre", (f"loop2p_actuation_day_liters{{{RIG}}}", "to this animal")),
        number(
            "of the day's ration",
            "percentunit",
            (f"loop2p_actuation_day_liters{{{RIG}}} / loop2p_actuation_day_limit_liters{{{RIG}}}", "used"),
        ),
        number("alarms that stand", "short", (f"sum(loop2p_alarm_active{{{RIG}}})", "alarms")),
    ),
    "Latency": (
        graph(
            "from a frame's last byte, p50",
            "s",
            (f"rig_to:loop2p_loop_seconds:p50{{{RIG}}}", "to {{to}}"),
            text="to traces, control value, decision, command in hand, picture shown, valve open, LED armed",
        ),
        graph(
            "from a frame's last byte, p99",
            "s",
            (f"rig_to:loop2p_loop_seconds:p99{{{RIG}}}", "to {{to}}"),
            (f"loop2p_task_decision_budget_seconds{{{RIG}}}", "budget of a decision"),
        ),
        graph("from a frame's last byte, p99.9", "s", (f"rig_to:loop2p_loop_seconds:p999{{{RIG}}}", "to {{to}}")),
        graph(
            "hops, p99",
            "s",
            (f"rig_service_source:loop2p_hop_seconds:p99{{{RIG}}}", "{{source}} to {{service}}"),
            text="sent to in hand",
        ),
        graph("hops, p50", "s", (f"rig_service_source:loop2p_hop_seconds:p50{{{RIG}}}", "{{source}} to {{service}}")),
        graph(
            "oldest message taken",
            "s",
            (f"loop2p_queue_age_seconds{{{RIG}}}", "{{source}} to {{service}}"),
            (f"loop2p_task_frame_age_limit_seconds{{{RIG}}}", "older frames decide nothing"),
            text="of the last 5 to 10 s. A slow link shows here, not in the gaps",
        ),
        graph(
            "deadlines missed a second",
            "ops",
            (f"rate(loop2p_task_deadline_misses_total{{{RIG}}}[1m])", "decisions later than the budget"),
        ),
        graph(
            "handling, mean",
            "s",
            (
                f"sum by (service) (rate(loop2p_handling_seconds_sum{{{RIG}}}[1m])) / "
                f"sum by (service) (rate(loop2p_handling_seconds_count{{{RIG}}}[1m]))",
                "{{service}}",
            ),
            text="a message in hand to handled",
        ),
        graph("messages waiting when last looked", "short", (f"loop2p_queue_depth{{{RIG}}}", "{{service}}")),
    ),
    "What is lost": (
        graph(
            "frames a second",
            "hertz",
            (f"rate(loop2p_imaging_frames_received_total{{{RIG}}}[1m])", "received"),
            (f"rate(loop2p_imaging_frames_invalid_total{{{RIG}}}[1m])", "not to be trusted"),
            (f"rate(loop2p_imaging_frames_dropped_total{{{RIG}}}[1m])", "dropped"),
        ),
        graph(
            "messages missed and rejected",
            "short",
            (f"loop2p_sequence_gaps_total{{{RIG}}}", "{{service}} missed of {{source}}"),
            (f"sum by (service) (loop2p_messages_rejected_total{{{RIG}}})", "{{service}} rejected"),
            text="since the services started",
        ),
        graph(
            "stalls, refused commands",
            "short",
            (f"loop2p_task_stalls_total{{{RIG}}}", "stalls"),
            (f"loop2p_actuation_refused_total{{{RIG}}}", "commands refused"),
            (f"loop2p_task_commands_unanswered_total{{{RIG}}}", "commands unanswered"),
        ),
    ),
    "Clocks and heartbeats": (
        graph(
            "clock's error bound",
            "s",
            (f"loop2p_clock_bound_seconds{{{RIG}}}", "{{service}}"),
            (f"max(loop2p_clock_bound_limit_seconds{{{RIG}}})", "limit"),
        ),
        graph("clock offset", "s", (f"loop2p_clock_offset_seconds{{{RIG}}}", "{{service}}")),
        graph("since a peer was heard", "s", (f"max by (peer) (loop2p_heartbeat_age_seconds{{{RIG}}})", "{{peer}}")),
    ),
    "Image": (
        graph(
            "shift",
            "short",
            (f"loop2p_imaging_shift_y_pixels{{{RIG}}}", "rows, plane {{plane}}"),
            (f"loop2p_imaging_shift_x_pixels{{{RIG}}}", "columns, plane {{plane}}"),
            text="pixels against the reference",
        ),
        graph(
            "registration quality",
            "short",
            (f"loop2p_imaging_quality{{{RIG}}}", "plane {{plane}}"),
            (f"loop2p_imaging_quality_limit{{{RIG}}}", "limit, plane {{plane}}"),
        ),
        graph(
            "frames decoded a second",
            "hertz",
            (f"rate(loop2p_decoding_frames_decoded_total{{{RIG}}}[1m])", "decoded"),
            (f"rate(loop2p_decoding_frames_invalid_total{{{RIG}}}[1m])", "not valid"),
        ),
    ),
    "Animal": (
        graph(
            "LED duty",
            "percentunit",
            (f"loop2p_actuation_led_duty{{{RIG}}}", "of the last 2 s"),
            (f"loop2p_actuation_led_duty_limit{{{RIG}}}", "limit"),
        ),
        graph(
            "given",
            "litre",
            (f"loop2p_actuation_session_liters{{{RIG}}}", "in this session"),
            (f"loop2p_actuation_day_liters{{{RIG}}}", "today"),
        ),
        graph("licks a second", "ops", (f"rate(loop2p_actuation_licks_total{{{RIG}}}[1m])", "licks")),
    ),
    "Machines": (
        graph("memory", "bytes", (f"process_resident_memory_bytes{{{RIG}}}", "{{service}}")),
        graph("processor", "percentunit", (f"rate(process_cpu_seconds_total{{{RIG}}}[1m])", "{{service}}")),
        graph(
            "disk",
            "bytes",
            (f"loop2p_recording_disk_free_bytes{{{RIG}}}", "free"),
            (f"loop2p_recording_disk_free_limit_bytes{{{RIG}}}", "the rig file asks for"),
            (f"loop2p_recording_journal_waiting_bytes{{{RIG}}}", "waiting for the disk"),
        ),
    ),
}


def dashboard() -> str:
    """The dashboard as JSON text."""
    rigs = QueryVariable("rig").datasource(SOURCE).query("label_values(loop2p_clock_bound_seconds, rig)")
    board = (
        Dashboard("loop2p")
        .uid("loop2p")
        .tags(["loop2p"])
        .refresh("5s")
        .time("now-15m", "now")
        .timezone("browser")
        .with_variable(DatasourceVariable("datasource").type("prometheus"))
        .with_variable(rigs.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED))
    )
    for title, panels in ROWS.items():
        board = board.with_row(Row(title))
        for panel in panels:
            board = board.with_panel(panel)
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


if __name__ == "__main__":
    FILE.write_text(dashboard(), encoding="utf-8")
    print(FILE)
