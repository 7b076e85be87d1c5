"""The scripts of ``cluster/``, with programs in place of uv and aws that only say what they are asked for."""

import re
import subprocess

import pytest

from tests.cluster.launchers import FOLDER, text

UV = """#!/bin/sh
[ "$2" = freeze ] && printf 'numpy==2.3.1\\ntorch==2.13.0+cpu\\nraysim @ file:///home\\nx==1.0+local\\n'
[ "$2" = freeze ] || echo "uv $*"
"""
AWS = """#!/bin/sh
echo "$*" >> $HOME/asked
case "$*" in
  *get-caller-identity*) echo 111122223333 ;;
  *--query*) cat $HOME/held 2>/dev/null || true ;;
  *head-bucket* | *get-role* | *get-instance-profile*) [ -f $HOME/held ] ;;
  *put-role-policy*) python3 -c 'import json, sys; json.loads(sys.argv[1])' "$8" ;;
esac
"""


def test_scripts_are_sound_and_name_one_ray_and_one_torch():
    for name in ("setup.sh", "aws-iam.sh"):
        subprocess.run(["bash", "-n", str(FOLDER / name)], check=True, timeout=20)
        assert text(name).splitlines()[0] == "#!/usr/bin/env bash"
        assert "set -euo pipefail" in text(name)
    versions = dict(re.findall(r"^((?:RAY|TORCH|TORCHVISION)_VERSION|CUDA)=(\S+)", text("setup.sh"), re.M))
    assert set(versions) == {"RAY_VERSION", "TORCH_VERSION", "TORCHVISION_VERSION", "CUDA"}
    for name, value in versions.items():
        assert f"ARG {name}={value}\n" in text("Dockerfile")
    for name in ("raycluster", "rayjob"):
        assert f'rayVersion: "{versions["RAY_VERSION"]}"' in text(f"kuberay/{name}.yaml")


@pytest.mark.parametrize(
    ("words", "installed"),
    [
        (["cpu", "s3fs", "aws"], ["whl/cpu", "ray[default,tune]==", "s3fs boto3 "]),
        (["cuda", "gcsfs"], ["whl/cu126", "gcsfs "]),  # PyPI's are for CUDA 13: too new for many drivers
        (["cpu", "adlfs", "azure"], ["azure-mgmt-resource<25 ", "msrestazure "]),
        (["cpu", "", "local"], ["whl/cpu", "ray[default,tune]=="]),
        (["cpu"], ["whl/cpu"]),
    ],
    ids=str,
)
def test_setup_installs(tmp_path, words, installed):
    done = ran(tmp_path, "setup.sh", words)
    assert done.returncode == 0, done.stderr
    for part in installed:
        assert part in done.stdout
    torch, last = [line for line in done.stdout.splitlines() if line.startswith("uv pip install")]
    assert re.search(r"torch==\d\S+ torchvision==\d", torch)  # a node that comes later has the same
    assert last.endswith("/raysim")
    for name in ("ray", "raysim"):
        assert (tmp_path / ".local/bin" / name).readlink() == tmp_path / "raysim-env/bin" / name


def test_workers_get_the_versions_that_the_head_has(tmp_path):
    versions = tmp_path / "raysim/cluster/versions.txt"
    first = ran(tmp_path, "setup.sh", ["cpu", "s3fs", "aws"])
    assert "--constraint" not in first.stdout
    assert versions.read_text().split() == ["numpy==2.3.1", "x==1.0"]  # of torch each node has its own build
    (tmp_path / "raysim/build").mkdir()
    worker = ran(tmp_path, "setup.sh", ["cuda", "s3fs"])
    assert f"--constraint {versions}" in worker.stdout
    assert not (
        tmp_path / "raysim/build"
    ).exists()  # what an earlier installation has left, modules that are gone
    assert "--constraint" not in ran(tmp_path, "setup.sh", ["cpu", "s3fs", "aws"]).stdout  # another `ray up`


@pytest.mark.parametrize("words", [[], ["gpu"], ["cpu", "s3fs", "ibm"]], ids=str)
def test_setup_refuses(tmp_path, words):
    assert ran(tmp_path, "setup.sh", words).returncode != 0


def test_roles_and_bucket_are_made_and_left_where_they_are(tmp_path):
    made = ran(tmp_path, "aws-iam.sh", ["bucket"])
    assert made.returncode == 0, made.stderr
    asked = (tmp_path / "asked").read_text()
    for part in (
        "s3 mb s3://bucket --region us-west-2",
        "create-service-linked-role --aws-service-name spot.amazonaws.com",  # or the head's first spot is refused
        "create-role --role-name raysim-head",
        "add-role-to-instance-profile --instance-profile-name raysim-worker --role-name raysim-worker",
    ):
        assert part in asked
    (tmp_path / "asked").unlink()
    (tmp_path / "held").write_text("raysim-worker")
    again = ran(tmp_path, "aws-iam.sh", ["other", "eu-west-1"])
    assert again.returncode == 0, again.stderr
    asked = (tmp_path / "asked").read_text()
    assert not re.search(r"\bmb\b|create-", asked)
    assert "add-role-to-instance-profile --instance-profile-name raysim-worker" not in asked
    assert asked.count("put-role-policy") == 2
    assert "arn:aws:s3:::other/*" in asked


def ran(home, name, words):
    """A script, on a machine with nothing but these programs."""
    (home / "raysim/cluster").mkdir(parents=True, exist_ok=True)
    for path, script in (("bin/uv", UV), ("bin/aws", AWS), ("raysim-env/bin/python", "#!/bin/sh\n")):
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(script)
        (home / path).chmod(0o755)
    env = {"HOME": str(home), "PATH": f"{home}/bin:/usr/bin:/bin"}
    command = ["bash", str(FOLDER / name), *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
