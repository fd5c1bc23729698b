"""Prometheus' configuration, rules and alerts, and Grafana's dashboard: right, and as fresh as their sources."""

import json
import re
import runpy
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from needs import lacking
from rigs import rig_text
from typer.testing import CliRunner

from loop2p.cli.metrics import metrics, scrape_config, targets, unreachable
from loop2p.protocol import ROLES, parse_rig

ROOT = Path(__file__).parents[2]
PROMETHEUS, GRAFANA = ROOT / "deploy" / "prometheus", ROOT / "deploy" / "grafana"
RULES = sorted(PROMETHEUS.glob("*.rules.yml"))
TEST = PROMETHEUS / "tests" / "alerts.test.yml"
PAGE = ROOT / "docs" / "how-to" / "metrics.md"
PORTS = list(range(5500, 5600))


def promtool(*args: str | Path, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    if shutil.which("promtool") is None:
        lacking("promtool (Debian package prometheus) is not installed")
    return subprocess.run(["promtool", *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=60)


def alerts() -> dict[str, dict[str, Any]]:
    groups = [g for path in RULES for g in yaml.safe_load(path.read_text())["groups"]]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


# ---------------------------------------------------------------- rules


def test_promtool_accepts_the_rules() -> None:
    result = promtool("check", "rules", *RULES)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_fires_when_it_must_and_is_silent_when_it_must() -> None:
    blocks = yaml.safe_load(TEST.read_text())["tests"]
    tested = {}
    for block in blocks:
        (case,) = block["alert_rule_test"]
        rigs = {rig for series in block["input_series"] for rig in re.findall(r'rig="(\w+)"', series["series"])}
        assert rigs == {"bad", "good"}
        assert [alert["exp_labels"]["rig"] for alert in case["exp_alerts"]] == ["bad"]
        tested[case["alertname"]] = block
    assert tested.keys() == alerts().keys()
    result = promtool("test", "rules", TEST.name, cwd=TEST.parent)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", alerts())
def test_the_tests_of_an_alert_can_fail(name: str, tmp_path: Path) -> None:
    """With its comparison turned round, each alert fails its own test."""
    shutil.copytree(PROMETHEUS, tmp_path / "p")
    path = tmp_path / "p" / "alerts.rules.yml"
    turned = {" > ": " < ", " < ": " > ", " == ": " != "}
    expr = alerts()[name]["expr"]
    (sign,) = [sign for sign in turned if sign in expr]
    text = path.read_text()
    assert text.count(f"expr: {expr}") == 1
    path.write_text(text.replace(f"expr: {expr}", f"expr: {expr.replace(sign, turned[sign])}"))
    test = yaml.safe_load(TEST.read_text())
    test["tests"] = [block for block in test["tests"] if block["name"] == name]
    (tmp_path / "p" / "tests" / "one.yml").write_text(json.dumps(test))
    result = promtool("test", "rules", "one.yml", cwd=tmp_path / "p" / "tests")
    assert result.returncode != 0
    assert name in result.stdout + result.stderr


def test_every_alert_is_explained() -> None:
    told = re.findall(r"^\| `(Loop2p\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(told) == sorted(alerts())


# ---------------------------------------------------------------- configuration


def written(rig: str, tmp_path: Path, *more: str) -> Any:
    path = tmp_path / "rig.toml"
    path.write_text(rig)
    rules = ["--rules", str(PROMETHEUS)] if "--rules" not in more else []
    app = typer.Typer()
    app.command()(metrics)
    return CliRunner().invoke(app, [str(path), "--out", str(tmp_path / "out"), *rules, *more])


def test_the_simulated_rig_gives_a_configuration_that_prometheus_takes(tmp_path: Path) -> None:
    result = written((ROOT / "deploy" / "rigs" / "simulated.toml").read_text(), tmp_path)
    assert result.exit_code == 0, result.output
    config = tmp_path / "out" / "prometheus.yml"
    assert str(config) in result.output
    (job,) = yaml.safe_load(config.read_text())["scrape_configs"]
    rig = tomllib.loads((ROOT / "deploy" / "rigs" / "simulated.toml").read_text())
    expected = [
        ([spec["metrics"]], {"service": name, "host": "local", "rig": "simulated"})
        for name, spec in rig["services"].items()
    ]
    assert [(c["targets"], c["labels"]) for c in job["static_configs"]] == expected
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"prometheus.yml", *(path.name for path in RULES)}
    result = promtool("check", "config", config)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", ['a "quoted" \\ name', "ünïcode: #1", "{braces}"])
def test_any_rig_name_is_quoted(name: str) -> None:
    rig = parse_rig(rig_text(PORTS, "runs").replace('name = "test"', f"name = {json.dumps(name, ensure_ascii=False)}"))
    config = yaml.safe_load(scrape_config(rig.rig, ["a.rules.yml"], 5.0))
    assert {c["labels"]["rig"] for c in config["scrape_configs"][0]["static_configs"]} == {name}


def test_services_are_reached_where_prometheus_can_reach_them() -> None:
    text = rig_text(PORTS, "runs", top='[hosts]\nscope = "10.0.0.1"\nlocal = "10.0.0.2"')
    text = text.replace('metrics = "127.0.0.1:5503"', 'metrics = "0.0.0.0:5503"\nhost = "scope"')
    text = text.replace('metrics = "127.0.0.1:5507"\n', "")
    rig = parse_rig(text).rig
    assert [t for t in targets(rig) if t.service == "imaging"] == [("10.0.0.1:5503", "imaging", "scope")]
    assert "decoding" not in {t.service for t in targets(rig)}
    lines = unreachable(rig)
    assert lines[0].startswith("decoding has no metrics")
    assert {line.split()[0] for line in lines[1:]} == set(ROLES) - {"imaging", "decoding"}
    assert unreachable(parse_rig(rig_text(PORTS, "runs")).rig) == []


@pytest.mark.parametrize("what", ["no rules", "no metrics", "no folder"])
def test_what_can_not_be_written_is_said(what: str, tmp_path: Path) -> None:
    rig = rig_text(PORTS, str(tmp_path))
    more: tuple[str, ...] = ()
    if what == "no rules":
        more, wanted = ("--rules", str(tmp_path)), "no *.rules.yml here"
    elif what == "no metrics":
        rig, wanted = re.sub(r"metrics = .*\n", "", rig), "no service has metrics"
    else:
        (tmp_path / "out").write_text("a file")
        wanted = str(tmp_path / "out")
    result = written(rig, tmp_path, *more)
    assert result.exit_code == 2
    assert wanted in result.output.replace("\n", "")


# ---------------------------------------------------------------- dashboard


def test_the_dashboard_is_fresh() -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="grafana-foundation-sdk (group dev) is not installed")
    made = runpy.run_path(str(GRAFANA / "dashboard.py"))["dashboard"]()
    assert made == (GRAFANA / "loop2p.json").read_text(), "run `python deploy/grafana/dashboard.py`"


def test_every_panel_asks_something_and_promtool_understands_it(tmp_path: Path) -> None:
    panels = [p for p in json.loads((GRAFANA / "loop2p.json").read_text())["panels"] if p["type"] != "row"]
    assert len({p["title"] for p in panels}) == len(panels)
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    assert all(panel["targets"] for panel in panels)
    rules = [{"record": f"panel:{k}", "expr": expr} for k, expr in enumerate(asked)]
    (tmp_path / "panels.yml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    result = promtool("check", "rules", tmp_path / "panels.yml")
    assert result.returncode == 0, result.stdout + result.stderr


def test_provisioning_is_yaml() -> None:
    files = sorted((GRAFANA / "provisioning").rglob("*.yml"))
    assert [yaml.safe_load(path.read_text())["apiVersion"] for path in files] == [1, 1]
