"""What nodes are asked, answered by this machine or by made-up ones."""

import json
import os
import platform
import subprocess
import sys

import pytest
import ray.cloudpickle

from raysim.core.plugin import ConfigError
from raysim.runtime import node_facts, survey

NODES = {"a": {"address": "10.0.0.1"}, "b": {"address": "10.0.0.2"}, "c": {"address": "10.0.0.3"}}


def asked(question):
    """The answer of the program that nodes run, run here."""
    command = [sys.executable, "-c", *survey._program(question)]
    return survey.found(
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    )


def test_this_machine_answers_with_its_versions():
    about = asked({"machine": [True]})["machine"]
    versions = about["versions"]
    assert versions["python"] == platform.python_version()
    assert versions["ray"] == ray.__version__
    assert len(versions["raysim code"]) == 8
    assert about["visible"] == os.environ.get("CUDA_VISIBLE_DEVICES")


def test_a_question_that_fails_leaves_the_others_answered(tmp_path):
    (tmp_path / "file").touch()
    answer = asked({"storage": [str(tmp_path / "file" / "x"), "leave", "n"], "autoscaler": ["10.0.0.1:6379"]})
    assert answer["autoscaler"] is None
    assert "NotADirectoryError" in answer["errors"]["storage"]


def test_code_that_differs_has_another_digest(tmp_path, monkeypatch):
    """By a byte, by a name; but not by what is no code."""
    package = tmp_path / "raysim"
    package.mkdir()
    (package / "__init__.py").write_text("x = 1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "raysim")
    first = node_facts._digest()
    (package / "notes.txt").write_text("later")
    assert node_facts._digest() == first
    (package / "__init__.py").write_text("x = 2\n")
    second = node_facts._digest()
    (package / "__init__.py").rename(package / "other.py")
    (package / "__init__.py").touch()
    assert len({first, second, node_facts._digest()}) == 3
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert node_facts._digest() is None


def test_the_task_travels_to_nodes_without_raysim():
    code = """
import pickle, sys
sys.modules["raysim"] = None  # importing it fails
task = pickle.loads(bytes.fromhex(sys.stdin.read()))
print(task("import sys; print('FOUND' + sys.argv[1])", "{}").strip())
"""
    sent = ray.cloudpickle.dumps(survey._runner()).hex()
    done = subprocess.run(
        [sys.executable, "-c", code], input=sent, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.strip() == "FOUND{}", done.stderr


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ('noise\nFOUND{"machine": 1}\n', {"machine": 1}),
        ("Traceback\nImportError: x\n", survey._silent("ImportError: x")),
        ("", survey._silent("it said nothing")),
    ],
)
def test_what_a_node_prints(output, answer):
    assert survey.found(output) == answer


def test_limits_are_those_of_the_autoscaler_of_this_cluster(tmp_path):
    """Found by its process; keys of the configuration that may hold secrets stay there."""
    file, monitor = tmp_path / "cloud.yaml", tmp_path / "monitor.py"
    kinds = {
        "head": {"max_workers": 0, "resources": {"CPU": 0}},
        "spot": {
            "min_workers": 1,
            "max_workers": 9,
            "resources": {"GPU": 4},
            "node_config": {"key": "secret"},
        },
        "any": {"resources": {"CPU": 2}},
    }
    config = {
        "max_workers": 12,
        "head_node_type": "head",
        "available_node_types": kinds,
        "auth": {"key": "secret"},
    }
    file.write_text(json.dumps(config))
    monitor.write_text("print('up', flush=True)\nimport sys\nsys.stdin.read()\n")
    command = [sys.executable, str(monitor), "--gcs-address=127.0.0.9:1", f"--autoscaling-config={file}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        process.stdout.readline()
        found = node_facts.autoscaler("127.0.0.9:1")
        assert node_facts.autoscaler("127.0.0.9:2") is None
        assert node_facts.autoscaler("127.0.0.9:11") is None  # of which the other is the beginning
    finally:
        process.communicate("")
    assert found["types"] == {
        "spot": {"min": 1, "max": 9, "resources": {"GPU": 4}},
        "any": {"min": 0, "max": 12, "resources": {"CPU": 2}},
    }
    assert (found["max"], found["head"]) == (12, {"CPU": 0})
    assert "secret" not in json.dumps(found)


# ---- storage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["{}/deep/runs", "file://{}/runs", "memory://runs"])
def test_files_in_storage_come_and_go(tmp_path, where):
    where = where.format(tmp_path)
    for name in ("m-1", "m-2", "other-1"):
        assert node_facts.storage(where, "leave", name) == [name]
    assert node_facts.storage(where, "seen", "m-") == ["m-1", "m-2"]
    node_facts.storage(where, "clear", "m-1")
    assert node_facts.storage(where, "seen", "m") == ["m-2"]
    with pytest.raises(FileNotFoundError):
        node_facts.storage(where, "clear", "m-1")


def shared(monkeypatch, places, locked=()):
    """What nodes with these folders say of storage that they all know as one; those locked cannot delete."""

    def answer(id, question):
        _, task, name = question["storage"]
        if task == "clear" and id in locked:
            return {"errors": {"storage": "PermissionError"}}
        return node_facts.main({"storage": [str(places[id]), task, name]})

    monkeypatch.setattr(survey, "ask", lambda questions: {id: answer(id, q) for id, q in questions.items()})
    names = survey._names(NODES)
    left = survey.ask({id: {"storage": ["/runs", "leave", names[id]]} for id in NODES})
    return survey.shared("/runs", names, left, NODES)


def test_storage_that_all_nodes_share(monkeypatch, tmp_path):
    at = shared(monkeypatch, dict.fromkeys(NODES, tmp_path / "runs"))
    assert at == {"where": "/runs", "errors": {}, "unseen": {}, "left behind": []}
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_folder_of_the_same_name_on_every_node_is_no_shared_storage(monkeypatch, tmp_path):
    at = shared(monkeypatch, {"a": tmp_path / "x", "b": tmp_path / "x", "c": tmp_path / "y"})
    assert at["unseen"] == {
        "10.0.0.1": ["10.0.0.3"],
        "10.0.0.2": ["10.0.0.3"],
        "10.0.0.3": ["10.0.0.1", "10.0.0.2"],
    }


def test_nodes_that_cannot_write_or_delete_are_named(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    good, bad = tmp_path / "runs", tmp_path / "file" / "runs"
    at = shared(monkeypatch, {"a": good, "b": bad, "c": good}, locked=("c",))
    assert list(at["errors"]) == ["10.0.0.2"]
    assert at["unseen"] == {}
    assert at["left behind"] == ["10.0.0.3"]


def test_an_address_where_nobody_listens_is_said_at_once():
    with pytest.raises(ConfigError, match=r"No Ray cluster answers at .*127\.0\.0\.1:1"):
        survey.open_to("127.0.0.1:1")
