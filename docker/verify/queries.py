"""Asks a running Prometheus every question of the dashboard and of the alerts: each must be understood, and each panel's answered by a number.

python docker/verify/queries.py http://127.0.0.1:9090
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

DASHBOARD = Path(__file__).parents[1] / "grafana/dashboards/crt-stream.json"
VARIABLES = {"$__rate_interval": "1m", "$replica": ".*"}
"""What Grafana puts in their place."""


def panels() -> Iterator[tuple[str, str]]:
    """Title and query of each target, as Grafana would ask it."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"]
            for name, value in VARIABLES.items():
                query = query.replace(name, value)
            yield f"{panel['title']} ({target['legendFormat']})", query


def ask(server: str, path: str, **parameters: str) -> dict:
    with urlopen(f"{server}/api/v1/{path}?{urlencode(parameters)}", timeout=10) as answer:
        told = json.load(answer)
    assert told["status"] == "success", told
    return told["data"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server")
    parser.add_argument("--over", default="10m", help="how far back a number may lie (default: 10m)")
    args = parser.parse_args()
    asked = list(panels())
    empty = []
    for title, query in asked:
        # The last one within the time: some happen seldom.
        found = ask(args.server, "query", query=f"last_over_time(({query})[{args.over}:5s])")["result"]
        values = [float(one["value"][1]) for one in found]
        if not any(math.isfinite(value) for value in values):
            empty.append(title)
        print(f"  {title}: {', '.join(f'{value:.4g}' for value in values[:6])}")
    alerts = [rule for group in ask(args.server, "rules")["groups"] for rule in group["rules"]]
    broken = [f"{rule['name']}: {rule['lastError']}" for rule in alerts if rule["health"] == "err"]
    states = {state: sorted(r["name"] for r in alerts if r["state"] == state) for state in ("firing", "pending")}
    print(f"{len(asked)} queries of the dashboard, {len(empty)} without a number; {len(alerts)} alerts, {states}")
    for one in [*empty, *broken]:
        print(f"  not answered: {one}")
    return 1 if empty or broken else 0


if __name__ == "__main__":
    sys.exit(main())
