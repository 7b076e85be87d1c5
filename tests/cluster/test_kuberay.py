"""Kubernetes manifests and the image, as far as can be checked without a cluster: by Ray's own reader, and by rule."""

import json
import re
import shutil

import pytest
import yaml

from tests.cluster.launchers import FOLDER, comment, manifests, text

RUNS = ["raycluster", "rayjob"]


def cluster_spec(name):
    """The RayCluster's specification."""
    first = manifests(name)[0]
    return first["spec"] if first["kind"] == "RayCluster" else first["spec"]["rayClusterSpec"]


def groups(name):
    """Head and worker groups by name."""
    spec = cluster_spec(name)
    return {"head": spec["headGroupSpec"]} | {g["groupName"]: g for g in spec["workerGroupSpecs"]}


def pods(name):
    """Specifications of all pods that a file leads to."""
    found = [g["template"]["spec"] for g in groups(name).values()]
    first = manifests(name)[0]["spec"]
    return found + ([first["submitterPodTemplate"]["spec"]] if "submitterPodTemplate" in first else [])


@pytest.mark.parametrize("name", [*RUNS, "access"])
def test_it_begins_with_its_command_and_how_it_is_taken_back(name):
    said = comment(text(f"kuberay/{name}.yaml"))
    assert said.startswith("kubectl apply -f cluster/kuberay/access.yaml")
    assert f"kubectl delete -f cluster/kuberay/{name}.yaml" in said
    assert "osts" in said
    assert name == "access" or re.search(r"rough, of 20\d\d", said)


@pytest.mark.parametrize("name", RUNS)
def test_kinds(name):
    first, *rest = manifests(name)
    assert (first["apiVersion"], first["kind"]) == (
        "ray.io/v1",
        {"raycluster": "RayCluster"}.get(name, "RayJob"),
    )
    assert [m["kind"] for m in rest] == ([] if name == "raycluster" else ["ConfigMap"])
    assert all(re.fullmatch(r"[a-z][a-z0-9-]{0,40}", m["metadata"]["name"]) for m in (first, *rest))


@pytest.mark.parametrize("name", RUNS)
def test_ray_s_autoscaler_reads_it(name, monkeypatch):
    from ray.autoscaler._private.kuberay import autoscaling_config
    from ray.autoscaler._private.util import validate_config

    monkeypatch.setenv("RAY_HEAD_POD_NAME", "head")
    resource = {"metadata": {"name": "raysim", "namespace": "default"}, "spec": cluster_spec(name)}
    config = autoscaling_config._derive_autoscaling_config_from_ray_cr(resource)
    validate_config(config)
    head, cpu, gpu = (config["available_node_types"][n] for n in ("headgroup", "cpu", "gpu"))
    assert head["resources"]["CPU"] == 0
    assert (cpu["resources"]["CPU"], cpu["resources"].get("GPU", 0)) == (8, 0)
    assert (gpu["resources"]["CPU"], gpu["resources"]["GPU"]) == (4, 1)
    assert cpu["min_workers"] == gpu["min_workers"] == 0
    assert config["idle_timeout_minutes"] == 10


@pytest.mark.parametrize("name", RUNS)
def test_autoscaler_version_and_token(name):
    spec = cluster_spec(name)
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["authOptions"] == {"mode": "token"}
    assert all(
        g["template"]["spec"]["restartPolicy"] == "Never" for g in groups(name).values()
    )  # as v2 wants it


@pytest.mark.parametrize("name", RUNS)
def test_every_container_is_bounded_and_locked(name):
    for pod in pods(name):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000  # as the Dockerfile makes it
        mounted = {v["name"] for v in pod.get("volumes", [])}
        for container in pod["containers"]:
            resources = container["resources"]
            assert {"cpu", "memory"} <= set(resources["limits"])
            assert resources["requests"] == resources["limits"]  # never squeezed, never evicted first
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {m["name"] for m in container.get("volumeMounts", [])} <= mounted
            assert not any("TOKEN" in e["name"] for e in container.get("env", []))


@pytest.mark.parametrize("name", RUNS)
def test_every_ray_pod_is_probed_and_labelled(name):
    for group, spec in groups(name).items():
        assert spec["template"]["metadata"]["labels"] == {"app": "raysim"}  # what access.yaml selects
        (container,) = spec["template"]["spec"]["containers"]
        for probe in ("readinessProbe", "livenessProbe"):
            command = container[probe]["exec"]["command"][-1]
            assert "local_raylet_healthz" in command
            assert ("gcs_healthz" in command) == (group == "head")
            assert container[probe]["failureThreshold"] * container[probe]["periodSeconds"] >= 60
        assert spec["rayStartParams"]["metrics-export-port"] == "8080"
        assert {"containerPort": 8080, "name": "metrics"} in container["ports"]


@pytest.mark.parametrize("name", RUNS)
def test_gpu_pods_go_to_gpu_nodes_and_the_head_to_none_that_is_taken_away(name):
    gpu, head = (groups(name)[g]["template"]["spec"] for g in ("gpu", "head"))
    assert gpu["nodeSelector"]
    assert "nvidia.com/gpu" in {t["key"] for t in gpu["tolerations"]}
    assert "preferredDuringSchedulingIgnoredDuringExecution" in gpu["affinity"]["nodeAffinity"]
    required = head["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert {e["operator"] for t in required["nodeSelectorTerms"] for e in t["matchExpressions"]} == {"NotIn"}
    assert groups(name)["head"]["rayStartParams"]["num-cpus"] == "0"


def test_the_dashboard_of_a_cluster_that_stays_listens_to_itself_only():
    assert groups("raycluster")["head"]["rayStartParams"]["dashboard-host"] == "127.0.0.1"


def test_access_lets_in_the_pods_the_operator_and_prometheus():
    account, policy = manifests("access")
    assert account["kind"] == "ServiceAccount"
    names = {g["template"]["spec"]["serviceAccountName"] for n in RUNS for g in groups(n).values()}
    assert names == {account["metadata"]["name"]}
    assert policy["kind"] == "NetworkPolicy"
    assert policy["spec"]["podSelector"]["matchLabels"] == {"app": "raysim"}
    ports = [[p["port"] for p in rule.get("ports", [])] for rule in policy["spec"]["ingress"]]
    assert ports == [[], [8265], [8080]]
    assert all(rule["from"] for rule in policy["spec"]["ingress"])


def test_the_job_runs_an_experiment_that_is_one(tmp_path):
    from raysim import Simulation

    job, config = manifests("rayjob")
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert job["spec"]["ttlSecondsAfterFinished"] <= 600
    assert job["spec"]["activeDeadlineSeconds"] > 0
    words = job["spec"]["entrypoint"].split()
    assert words[:2] == ["raysim", "run"]
    folder, _, name = words[2].rpartition("/")
    volumes = {v["name"]: v for v in groups("rayjob")["head"]["template"]["spec"]["volumes"]}
    mounts = groups("rayjob")["head"]["template"]["spec"]["containers"][0]["volumeMounts"]
    (mount,) = (m for m in mounts if m["mountPath"] == folder)
    assert volumes[mount["name"]]["configMap"]["name"] == config["metadata"]["name"]
    sim = Simulation.from_yaml(config["data"][name], [w for w in words if "=" in w])
    assert sim.placement.actors == 8
    assert sim.placement.address == "auto"
    assert sim.checkpoint_every > 0
    assert words[words.index("--folder") + 1].startswith("s3://")


def instructions():
    """The Dockerfile's instructions, lines joined."""
    joined = re.sub(
        r"\\\n", " ", "\n".join(x for x in text("Dockerfile").splitlines() if not x.startswith("#"))
    )
    return [line.split(None, 1) for line in joined.splitlines() if line.strip()]


def test_dockerfile():
    said, lines = comment(text("Dockerfile")), instructions()
    assert said.startswith("docker build -f cluster/Dockerfile")
    assert "--build-arg BUILD=cuda" in said
    assert "Costs:" in said
    kinds = [kind for kind, _ in lines]
    assert set(kinds) <= {"ARG", "FROM", "RUN", "ENV", "COPY", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}
    assert ["ARG", "PYTHON=3.11"] in lines
    assert ["ARG", "BUILD=cpu"] in lines
    assert kinds.index("USER") > max(i for i, kind in enumerate(kinds) if kind == "RUN")
    assert dict(lines)["USER"] == "1000"
    assert "useradd --create-home --uid 1000" in str(lines)
    assert "RAY_AUTH_MODE=token" in dict(lines)["ENV"]
    for kind in ("ENTRYPOINT", "CMD"):
        assert isinstance(json.loads(dict(lines)[kind]), list)  # no shell between a signal and raysim
    assert "wget" in str(lines)  # the probes'


def test_the_image_holds_no_secret_and_no_run():
    ignored = text("Dockerfile.dockerignore").split()
    assert {".git", "runs", "**/auth_token", "**/*.pem", "**/*.key"} <= set(ignored)


def test_docker_finds_no_fault_in_the_dockerfile():
    import subprocess

    if shutil.which("docker") is None:
        pytest.skip("docker is not here")
    command = ["docker", "build", "--check", "-f", str(FOLDER / "Dockerfile"), str(FOLDER.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if "daemon" in done.stderr or "unknown flag" in done.stderr or "buildx" in done.stderr:
        pytest.skip(f"docker cannot build here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_and_grafana_files_are_well_formed():
    assert yaml.safe_load(text("prometheus.yml"))["scrape_configs"]
    assert json.loads(text("grafana.json"))["panels"]
