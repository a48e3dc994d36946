"""Alerts and dashboard: understood by Prometheus, about metrics that there are, and the alerts go off when they are meant to."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from app.metrics import Metrics
from tests.servers import needs

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
ALERTS = DOCKER / "prometheus/alerts.yml"
DASHBOARD = json.loads((DOCKER / "grafana/dashboards/crt-stream.json").read_text())
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def promtool(*arguments: object) -> str:
    """Raises AssertionError with what it says when it fails."""
    needs("promtool")
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def queries() -> list[str]:
    """Of the dashboard, as Grafana would ask them."""
    asked = [target["expr"] for panel in PANELS for target in panel["targets"]]
    return [one.replace("$__rate_interval", "1m").replace("$replica", ".*") for one in asked]


def known() -> dict[str, set[str]]:
    """Metrics by name, and their labels; those that a scrape adds are in all."""
    found: dict[str, set[str]] = {"up": set(), "ALERTS": {"alertstate", "alertname"}}
    for family in Metrics().registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("query", queries() + [rule["expr"] for rule in RULES])
def test_every_query_is_about_metrics_that_there_are(query):
    """With labels that they have, and codes and stages that occur."""
    metrics = known()
    names = set(re.findall(r"\b(?:crt|process|python)_\w+|\bup\b", query))
    assert names
    for name in names:
        assert name in metrics, name
    for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", query):
        for label in re.findall(r"(\w+)(?:=~|!=|=)", matchers):
            assert label in metrics[name] | {"job", "instance"}, (name, label)
    for label, value in re.findall(r'(code|stage|kind|reason)="(\w+)"', query):
        text = "".join(path.read_text() for path in (ROOT / "app").rglob("*.py"))
        assert f'"{value}"' in text, (label, value)


def test_prometheus_understands_the_dashboards_queries(tmp_path):
    """As rules, which promtool checks."""
    rules = [{"record": f"panel:{i}", "expr": query} for i, query in enumerate(queries())]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", tmp_path / "rules.yml")


def test_prometheus_understands_its_configuration_and_alerts(tmp_path):
    """The configuration names the alerts where they are mounted."""
    text = (DOCKER / "prometheus/prometheus.yml").read_text().replace("/etc/crt/alerts.yml", str(ALERTS))
    (tmp_path / "prometheus.yml").write_text(text)
    promtool("check", "config", tmp_path / "prometheus.yml")


def test_each_alert_goes_off_when_it_is_meant_to_and_not_before(tmp_path):
    """By promtool's own test of rules: a quiet service, and one on which everything goes wrong."""
    tests = yaml.safe_load((ROOT / "tests/docker/alerts.yml").read_text())
    tests["rule_files"] = [str(ALERTS)]
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(tests))
    promtool("test", "rules", tmp_path / "alerts.yml")
    tried = {one["alertname"] for case in tests["tests"] for one in case["alert_rule_test"] if one["exp_alerts"]}
    assert tried == {rule["alert"] for rule in RULES}


def test_every_alert_is_in_the_operations_page():
    """Under a heading of its own: what it means, and what to do."""
    page = (ROOT / "docs/operations.md").read_text()
    for rule in RULES:
        assert re.search(rf"(?m)^### {rule['alert']}$", page), rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]


def test_the_dashboard_shows_what_an_operator_asks_first():
    """Live streams, percentiles of latency, drops, waiting, errors, resumes; with a source that is provisioned."""
    asked = " ".join(queries())
    for metric in (
        "crt_live_streams", "crt_label_latency_seconds_bucket", "crt_frames_dropped_total", "crt_queue_seconds_bucket",
        "crt_errors_total", "crt_streams_resumed_total",
    ):  # fmt: skip
        assert metric in asked
    for quantile in ("0.5", "0.95", "0.99"):
        assert f"histogram_quantile({quantile}," in asked
    source = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    assert {target["datasource"]["uid"] for panel in PANELS for target in panel["targets"]} == {source["uid"]}
    provider = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/crt.yml").read_text())["providers"][0]
    assert provider["options"]["path"] == "/var/lib/crt-dashboards"
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
