"""The files for `ray up`, against Ray's own schema, Ray's own scheduler, and what README.md promises of them."""

import re
import shlex
import subprocess

import pytest

from tests.cluster.launchers import CLOUDS, FOLDER, RAY_UP, STARTS, comment, launcher, prepared, text, workers

MARKET = "ray.io/market-type"


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_accepts_it(name):
    from ray.autoscaler._private.util import validate_config

    validate_config(prepared(name))


@pytest.mark.parametrize(
    ("change", "match"),
    [({"min_workerz": 1}, "min_workerz"), ({"head_node_type": "none"}, "head_node_type")],
    ids=["unknown key", "no such head"],
)
def test_the_check_refuses_what_is_wrong(change, match):
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(Exception, match=match):
        validate_config(prepare_config(launcher("aws") | change))


@pytest.mark.parametrize("name", RAY_UP)
def test_it_begins_with_its_command_its_costs_and_how_it_is_taken_down(name):
    said = comment(text(f"{name}.yaml"))
    assert said.startswith(f"ray up -y cluster/{name}.yaml\n")
    assert f"ray down -y cluster/{name}.yaml" in said
    assert "Costs, left on:" in said
    if name in CLOUDS:
        assert re.search(r"about \d+ USD a day", said)
        assert re.search(r"Rough\s+list prices of \S+ in 20\d\d; for today's", said)
        assert "Spot and on demand:" in said


@pytest.mark.parametrize("name", RAY_UP)
def test_every_start_asks_for_the_token_and_nothing_listens_outside(name):
    config = prepared(name)
    starts = [c for key in STARTS for c in config[key] if "ray start" in c]
    assert len(starts) == 2
    for command in starts:
        before, _, after = command.partition("ray start")
        assert "RAY_AUTH_MODE=token" in before
        assert "--metrics-export-port=8080" in after
    (head,) = (c for c in starts if "--head" in c)
    assert "--dashboard-host=127.0.0.1" in head
    assert "--num-cpus=0" in head
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert "0.0.0.0" not in str(config)
    assert "security_group" not in config["provider"]  # Ray's own lets in ssh and the group itself
    for commands in (config[key] for key in STARTS):
        for command in commands:
            subprocess.run(["bash", "-n", "-c", command], check=True, timeout=20)


@pytest.mark.parametrize("name", RAY_UP)
def test_the_token_travels_as_a_folder_and_stands_in_no_file(name):
    config = launcher(name)
    assert config["file_mounts"]["~/.ray"] == "~/.raysim/ray"
    for file in FOLDER.rglob("*"):
        if file.is_file() and file.suffix != ".pyc":
            assert not re.search(r"\b[0-9a-f]{40,}\b|AKIA[0-9A-Z]{16}|PRIVATE KEY", file.read_text()), file


@pytest.mark.parametrize("name", CLOUDS)
def test_the_head_is_on_demand_and_has_no_clients(name):
    config = prepared(name)
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0
    assert not spot(head)


def spot(node_type):
    """Whether the cloud is asked for a machine that it may take away."""
    config = str(node_type["node_config"])
    return "'MarketType': 'spot'" in config or "'provisioningModel': 'SPOT'" in config or "'Spot'" in config


@pytest.mark.parametrize("name", CLOUDS)
def test_every_kind_of_worker_is_spot_first_and_on_demand_else(name):
    types = workers(prepared(name))
    assert set(types) == {f"{kind}-{market}" for kind in ("gpu", "cpu") for market in ("spot", "on-demand")}
    for type_name, node_type in types.items():
        market = "spot" if type_name.endswith("-spot") else "on-demand"
        assert node_type["labels"][MARKET] == market
        assert spot(node_type) == (market == "spot")
        assert node_type["min_workers"] == 0 < node_type["max_workers"] <= 8
        assert ("GPU" in node_type["resources"]) == type_name.startswith("gpu")
        assert "ray.io/accelerator-type" in node_type["labels"] or "GPU" not in node_type["resources"]
    for kind in ("gpu", "cpu"):
        cheap, sure = types[f"{kind}-spot"], types[f"{kind}-on-demand"]
        assert cheap["resources"] == sure["resources"]
        assert cheap["priority"] > sure["priority"]


@pytest.mark.parametrize("name", CLOUDS)
def test_idle_workers_go_and_nothing_stopped_is_kept(name):
    config = prepared(name)
    assert 0 < config["idle_timeout_minutes"] <= 15
    assert config["max_workers"] <= 16
    assert config["provider"]["cache_stopped_nodes"] is False


@pytest.mark.parametrize("name", CLOUDS)
def test_every_node_installs_this_checkout_and_nothing_of_ray_s_choice(name):
    config = prepared(name)
    storage = {"aws": "s3fs", "gcp": "gcsfs", "azure": "adlfs"}[name]
    script = "bash ~/raysim/cluster/setup.sh"
    assert config["head_setup_commands"] == [f"{script} cpu {storage} {name}"]
    for type_name, node_type in workers(config).items():
        build = "cuda" if type_name.startswith("gpu") else "cpu"
        commands = node_type.get("worker_setup_commands", config["worker_setup_commands"])
        assert commands == [f"{script} {build} {storage}"]
    assert "nightly" not in str(config)
    assert ".dev0" not in str(config)  # what Ray's defaults would install
    assert "fallback.py" in str(config["head_start_ray_commands"])


@pytest.mark.parametrize("name", RAY_UP)
def test_what_is_installed_goes_to_the_nodes_and_nothing_else_of_the_folder(name):
    """Ray reads and hashes all of what is mounted at each `ray up`: a virtual environment, runs and history too."""
    mounts = {to: here for to, here in launcher(name)["file_mounts"].items() if to != "~/.ray"}
    assert mounts == {f"~/raysim/{here}": here for here in mounts.values()}
    project = (FOLDER.parent / "pyproject.toml").read_text()
    named = re.findall(r"^(?:include|readme|license-files) = (.+)$", project, re.MULTILINE)[:3]
    wanted = {name.rstrip("*") for name in re.findall(r'"(.+?)"', " ".join(named))}
    assert {"raysim", "tuning", "README.md"} < wanted
    assert set(mounts.values()) == {"pyproject.toml", "cluster", *wanted}
    assert all((FOLDER.parent / here).exists() for here in mounts.values())


def test_a_google_machine_that_is_taken_away_is_gone_with_its_disk():
    """Preempted it would be stopped otherwise: Ray neither sees nor deletes it then, and its disk costs on."""
    for node_type in workers(prepared("gcp")).values():
        plan = node_type["node_config"].get("scheduling", {})
        if spot(node_type):
            assert plan["instanceTerminationAction"] == "DELETE"
            assert plan["onHostMaintenance"] == "TERMINATE"
        for disk in node_type["node_config"]["disks"]:
            assert disk["autoDelete"] is True
            kind = disk["initializeParams"][
                "diskType"
            ]  # g2 machines take no pd-standard, which is the default
            assert kind == f"zones/{prepared('gcp')['provider']['availability_zone']}/diskTypes/pd-balanced"


def test_azure_s_identity_outlives_ray_down():
    """One that Ray makes is deleted by `ray down`, and with it what it may do with the storage."""
    provider = launcher("azure")["provider"]
    assert provider["msi_name"]
    assert provider["msi_resource_group"] != provider["resource_group"]


def test_the_three_clouds_differ_in_nothing_else():
    configs = [launcher(name) for name in CLOUDS]
    for key in set(configs[0]) - {
        "provider",
        "available_node_types",
        "head_setup_commands",
        "worker_setup_commands",
    }:
        assert configs[0][key] == configs[1][key] == configs[2][key], key


def test_readme_names_every_file_and_only_those():
    said = text("README.md")
    here = {f.name for f in FOLDER.rglob("*") if f.is_file() and f.suffix != ".pyc"}
    missing = {name for name in here - {"README.md", "Dockerfile.dockerignore"} if name not in said}
    assert not missing
    for name in re.findall(r"`(?:cluster/)?([\w/.-]+\.(?:yaml|sh|py|json|yml))`", said):
        assert any((root / name).exists() for root in (FOLDER, FOLDER / "kuberay", FOLDER.parent)), name
    for heading in ("Five commands", "Which file", "Costs and safety", "Predicted scale"):
        assert f"## {heading}" in said


def test_readme_installs_on_the_laptop_what_setup_installs_on_the_head():
    """`ray up` runs the same code on the laptop as the autoscaler does on the head."""
    wanted = re.findall(r"packages\+=\((.+?)\)", text("setup.sh"), re.DOTALL)
    assert len(wanted) == 3
    said = text("README.md").replace(
        "azure-mgmt-compute \\\n  azure-mgmt-network", "azure-mgmt-{compute,network}"
    )
    for name in shlex.split(" ".join(wanted)):
        assert f"{name} " in said.replace("\n", " ").replace('"', ""), name
    (ray,) = re.findall(r"^RAY_VERSION=(\S+)", text("setup.sh"), re.MULTILINE)
    assert said.count(f'"ray[default,tune]=={ray}"') == 3


def test_readme_s_commands_exist():
    from raysim.cli import jobs

    block = text("README.md").split("## Five commands")[1].split("```sh")[1].split("```")[0]
    used = {shlex.split(line, comments=True)[1] for line in block.splitlines() if line.startswith("raysim ")}
    assert used == {"submit", "logs", "fetch"}
    assert all(callable(getattr(jobs, name)) for name in used)
