"""Reading clusters: worker types of `ray up` and KubeRay, instances, what the caller knows better, bad files."""

import pytest

from raysim.core.plugin import ConfigError
from raysim.plan import machines

AWS = """
cluster_name: x
provider: {type: aws, region: us-west-2}
head_node_type: head
available_node_types:
  head: {resources: {CPU: 0}, node_config: {InstanceType: m6i.large}}
  cpu: {resources: {}, min_workers: 0, max_workers: 4, node_config: {InstanceType: m6i.4xlarge}}
  gpu: {resources: {CPU: 30, GPU: 4}, max_workers: 8, node_config: {InstanceType: g5.12xlarge}}
  own: {resources: {CPU: 6}, node_config: {InstanceType: z9.huge}}
"""
GCP = """
provider: {type: gcp}
head_node_type: head
available_node_types:
  head: {resources: {CPU: 0}, node_config: {machineType: n2-standard-4}}
  t4:
    resources: {CPU: 8}
    node_config:
      machineType: zones/us-west1-a/machineTypes/n1-standard-8
      guestAccelerators: [{acceleratorType: nvidia-tesla-t4, acceleratorCount: 2}]
"""
AZURE = """
provider: {type: azure}
head_node_type: head
available_node_types:
  head: {node_config: {azure_arm_parameters: {vmSize: Standard_D4s_v5}}}
  a100: {node_config: {azure_arm_parameters: {vmSize: Standard_NC24ads_A100_v4}}}
"""
KUBERAY = """
kind: NetworkPolicy
spec: {}
---
apiVersion: ray.io/v1
kind: RayCluster
spec:
  headGroupSpec: {template: {spec: {containers: [{resources: {limits: {cpu: "2", memory: 8Gi}}}]}}}
  workerGroupSpecs:
    - groupName: gpu
      maxReplicas: 5
      template: {spec: {containers: [{resources: {limits: {cpu: 3500m, memory: 30Gi, nvidia.com/gpu: 1}}}]}}
"""


def written(tmp_path, text):
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    return file


def test_the_worker_with_most_gpus_is_taken_and_the_file_outranks_the_table(tmp_path):
    found = machines.read(written(tmp_path, AWS), 16)
    assert (found.worker.cpus, found.worker.gpus, found.nodes, found.most) == (30, 4, 16, 8)
    assert found.worker.name == "gpu (g5.12xlarge)"
    assert "data sheet" in found.worker.source
    assert "check" in found.worker.source
    assert (found.worker.gbits, found.worker.gpu_memory_gb) == (40, pytest.approx(25.8, abs=0.1))
    assert found.head is not None
    assert (found.head.cpus, found.head.gbits) == (0, 12.5)


def test_a_worker_type_by_name_and_an_instance_that_nobody_knows(tmp_path):
    file = written(tmp_path, AWS)
    cpu = machines.read(file, 2, "cpu").worker
    assert (cpu.cpus, cpu.gpus) == (16, 0)
    own = machines.read(file, 2, "own").worker
    assert own.cpus == 6
    assert "assumed" in own.source


def test_what_the_caller_knows_outranks_all(tmp_path):
    found = machines.read(written(tmp_path, AWS), 1, "own", gpus=2, gbits=100.0, memory_gb=64.0, cpus=None)
    assert (found.worker.gpus, found.worker.gbits, found.worker.memory_gb, found.worker.cpus) == (
        2,
        100.0,
        64.0,
        6,
    )
    assert found.head is not None
    assert found.head.gbits == 100.0
    assert "as given" in found.worker.source


@pytest.mark.parametrize(
    ("text", "cpus", "gpus", "most"),
    [(GCP, 8, 2, None), (AZURE, 24, 1, None), (KUBERAY, 3.5, 1, 5)],
    ids=["gcp", "azure", "kuberay"],
)
def test_other_providers(tmp_path, text, cpus, gpus, most):
    found = machines.read(written(tmp_path, text), 3)
    assert (found.worker.cpus, found.worker.gpus, found.most) == (cpus, gpus, most)


def test_kuberay_memory_is_read_in_its_units(tmp_path):
    found = machines.read(written(tmp_path, KUBERAY), 1)
    assert found.worker.memory_gb == pytest.approx(30 * 2**30 / 1e9)
    assert machines._quantity("500m") == 0.5
    assert machines._quantity("16G") == 16e9
    assert machines._quantity(4) == 4


def test_workstations_are_taken_to_be_like_this_one(tmp_path):
    text = "provider: {type: local, head_ip: a, worker_ips: [b, c]}\ncluster_name: x\n"
    found = machines.read(written(tmp_path, text), 2)
    assert found.most == 2
    assert found.worker.cpus == machines.here().cpus


@pytest.mark.parametrize(
    ("text", "worker", "said"),
    [
        ("a: [", None, "cannot be read: it is not YAML"),
        ("- 1\n", None, "holds no mapping"),
        ("provider: {type: aws}\n", None, "has no available_node_types"),
        ("head_node_type: h\navailable_node_types: {h: {resources: {CPU: 4}}}\n", None, "no worker type with CPUs"),
        ("head_node_type: h\navailable_node_types: {w: {resources: {CPU: 0}}}\n", None, "no worker type with CPUs"),
        (AWS, "gpus", "no worker type 'gpus'. Did you mean 'gpu'?"),
        (AWS, "zebra", "It has: cpu, gpu, own"),
        ("kind: RayCluster\nspec: {workerGroupSpecs: []}\n", None, "no worker type with CPUs or GPUs"),
    ],
)  # fmt: skip
def test_bad_clusters_are_said(tmp_path, text, worker, said):
    with pytest.raises(ConfigError, match=r".*") as caught:
        machines.read(written(tmp_path, text), 1, worker)
    assert said in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        machines.read(tmp_path / "none.yaml", 1)


def test_every_instance_of_the_table_is_whole():
    for name in machines._INSTANCES:
        found = machines.instance(name)
        assert found is not None
        assert found.cpus >= 2
        assert found.gbits > 0
        assert found.memory_gb > 4
        assert (found.gpus > 0) == (found.gpu_memory_gb > 0)
