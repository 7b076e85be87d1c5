"""The dashboard draws what raysim and Ray export, as a scrape of a small run has it, and Prometheus finds them."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from raysim.runtime import telemetry

CLUSTER = Path(__file__).parents[2] / "cluster"


def dashboard():
    return json.loads((CLUSTER / "grafana.json").read_text())


def queries():
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]


def names():
    return set(
        re.findall(r"\bray_\w+", " ".join([*queries(), *(v["query"] for v in variables() if "query" in v)]))
    )


def variables():
    """Queries of the dashboard's variables."""
    return [v["query"] for v in dashboard()["templating"]["list"] if isinstance(v["query"], dict)]


def grouped():
    """Metrics and the labels that panels tell their series apart by."""
    found = [
        (name, label.strip())
        for query in queries()
        for labels, inner in re.findall(r"by \(([^)]*)\) \(([^()]*(?:\([^()]*\))?[^()]*)\)", query)
        for name in re.findall(r"\bray_\w+", inner)
        for label in labels.split(",")
    ]
    assert {name for name, _ in found} == {n for query in queries() for n in re.findall(r"\bray_\w+", query)}
    return found


def rays_own():
    """What Ray's own dashboards draw: GPU metrics appear in no scrape of a machine without GPUs."""
    import ray

    folder = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    return set(re.findall(r"\bray_\w+", "".join(file.read_text() for file in folder.glob("*.py"))))


def test_the_dashboard_draws_what_raysim_exports_and_what_ray_has():
    ours = {name for name in names() if name.startswith("ray_raysim")}
    assert ours == telemetry.exported()  # and nothing that is exported is left out
    assert {name for name in names() - ours if "gpus" in name or "gram" in name} <= rays_own()


def test_the_dashboard_can_be_imported():
    board = dashboard()
    datasource, run = board["templating"]["list"]
    assert (datasource["type"], datasource["query"], datasource["name"]) == (
        "datasource",
        "prometheus",
        "datasource",
    )
    assert (run["type"], run["name"], run["multi"]) == ("query", "run", True)
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert {p["datasource"]["uid"] for p in [*panels, run]} == {"${datasource}"}
    cells = [
        (x, y)
        for g in (panel["gridPos"] for panel in board["panels"])
        for x in range(g["x"], g["x"] + g["w"])
        for y in range(g["y"], g["y"] + g["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize("query", queries())
def test_queries_choose_the_run_and_close_what_they_open(query):
    assert all(query.count(a) == query.count(b) for a, b in ("()", "[]", "{}"))
    assert query.count("ray_raysim") == query.count('{run=~"$run"}')
    assert query.count("_total{") == query.count("rate(")


def test_legends_name_labels_that_are_left():
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            left = {
                label.strip()
                for labels in re.findall(r"by \(([^)]*)\)", target["expr"])
                for label in labels.split(",")
            }
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= left, panel["title"]


def test_prometheus_reads_the_file_that_ray_writes():
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    text = (CLUSTER / "prometheus.yml").read_text()
    assert "prometheus --config.file=cluster/prometheus.yml" in text.splitlines()[0]
    (job,) = yaml.safe_load(text)["scrape_configs"]
    (files,) = (entry["files"] for entry in job["file_sd_configs"])
    assert files == [f"/tmp/ray/session_latest/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]


LIVE = """
import json, re, sys, threading, time, urllib.request
import ray
import raysim as rs
from tests.experiments import digits

values, labels, ours, every = {}, {}, set(sys.argv[2].split()), set(sys.argv[3].split())

def watch():  # gauges stay some seconds longer than the process that set them
    while not every <= set(values):
        time.sleep(0.5)
        page = urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics", timeout=60).read().decode()
        for line in page.splitlines():
            name = line.partition("{")[0]
            if name in every and (name not in ours or 'run="live"' in line):
                values[name] = float(line.rpartition(" ")[2])
                labels[name] = re.findall(r"[{,](\\w+)=", line)

quiet = dict(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
ray.init(address="local", num_cpus=2, object_store_memory=100_000_000, _metrics_export_port=int(sys.argv[1]), **quiet)
scraper = threading.Thread(target=watch, daemon=True)
scraper.start()
result = digits(rounds=3, name="live", placement=rs.Placement(actors=2)).run(None)
scraper.join(120)
print("FOUND" + json.dumps({"values": values, "labels": labels, "bits_up": int(result.metrics["bits_up"].iloc[-1])}))
ray.shutdown()
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_on_ray_is_scraped_with_all_that_the_dashboard_draws():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    ours = telemetry.exported()
    every = ours | {name for name in names() if "gpus" not in name and "gram" not in name}
    root = str(Path(__file__).parents[2])
    env = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", LIVE, port, " ".join(ours), " ".join(every)]
    done = subprocess.run(
        command, env=env, cwd=root, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(next(line[5:] for line in done.stdout.splitlines() if line.startswith("FOUND")))
    values = found["values"]
    assert set(values) == every
    assert {
        name for name, label in grouped() if name in every and label not in found["labels"][name]
    } == set()
    assert values["ray_raysim_round"] == values["ray_raysim_rounds"] == 3
    assert values["ray_raysim_client_updates_total"] == 3 * 8
    assert values["ray_raysim_bits_up_total"] == found["bits_up"]
    assert 0 < values["ray_raysim_accuracy"] <= 1
    assert values["ray_raysim_clients_bytes"] > values["ray_raysim_coordinator_bytes"] > 5e7  # two of them
