"""The JobSet that is made, and what kubectl is asked."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Desk

yaml = pytest.importorskip("yaml", reason="PyYAML comes with transformers")

TRAIN = ("--config", "quickstart", "--workdir", "/runs/a", "--config.total=6 'steps' & \"more\" $(HOME)")
ASKED = {"NAME": "mine", "IMAGE": "registry/lmx:1", "TOPOLOGY": "v5e:4x4", "CLAIM": "runs"}


def rendered(desk: Desk, **changed: str) -> dict[str, Any]:
    done = desk.run("kubernetes.sh", "render", *TRAIN, **{**ASKED, **changed})
    assert done.returncode == 0, done.stderr
    assert "@" not in done.stdout
    return yaml.safe_load(done.stdout)  # type: ignore[no-any-return]


def test_the_jobset_is_whole(desk: Desk) -> None:
    made = rendered(desk, GRACE="77", RESTARTS="5")
    assert (made["apiVersion"], made["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert made["metadata"]["name"] == "mine"
    assert made["spec"]["failurePolicy"]["maxRestarts"] == 5
    job = made["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["backoffLimit"]) == (4, 4, 0)
    pod = job["template"]["spec"]
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 77)
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    (container,) = pod["containers"]
    assert container["command"] == ["python", "-m", "lmx", "train"]
    assert container["args"] == [*TRAIN[:4], TRAIN[4].replace("$(", "$$(")]
    assert container["image"] == "registry/lmx:1"
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert container["env"] == [{"name": "LMX_PROCESSES", "value": "auto"}]
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "runs"}


def test_stopped_and_saved_is_started_again_for_ever(desk: Desk) -> None:
    """The pods' rule for code 75 must name the container, and the JobSet's rule the reason that it makes."""
    made = rendered(desk)
    job = made["spec"]["replicatedJobs"][0]["template"]["spec"]
    (name,) = (one["name"] for one in job["template"]["spec"]["containers"])
    codes = [rule["onExitCodes"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert codes == [{"containerName": name, "operator": "In", "values": [75]}]
    (rule,) = made["spec"]["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]


@pytest.mark.parametrize(
    ("topology", "pods", "chips", "accelerator"),
    [
        ("v5e:1x1", 1, 1, "tpu-v5-lite-podslice"),
        ("v5e:2x4", 1, 8, "tpu-v5-lite-podslice"),
        ("v6e:4x8", 8, 4, "tpu-v6e-slice"),
        ("v5p:2x2x4", 4, 4, "tpu-v5p-slice"),
    ],
)
def test_slices(topology: str, pods: int, chips: int, accelerator: str, desk: Desk) -> None:
    made = rendered(desk, TOPOLOGY=topology)
    job = made["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert job["parallelism"] == pods
    assert pod["containers"][0]["resources"]["limits"]["google.com/tpu"] == chips
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == accelerator


def test_it_is_applied_where_there_are_jobsets(desk: Desk) -> None:
    desk.fake("kubectl", 'if [[ $1 == apply ]]; then cat >"$0.stdin"; fi')
    done = desk.run("kubernetes.sh", "apply", *TRAIN, **ASKED, NAMESPACE="ours")
    assert done.returncode == 0, done.stderr
    assert "16 chips of v5e (v5e:4x4), 4 pods, namespace ours" in done.stderr
    assert desk.calls("kubectl") == [
        ["kubectl", "get", "crd", "jobsets.jobset.x-k8s.io"],
        ["kubectl", "apply", "--namespace", "ours", "-f", "-"],
    ]
    applied = yaml.safe_load((desk.bin / "kubectl.stdin").read_text())
    assert applied["metadata"]["namespace"] == "ours"
    desk.fake("kubectl", "exit 1")
    done = desk.run("kubernetes.sh", "apply", *TRAIN, **ASKED)
    assert done.returncode == 2
    assert "the cluster has no JobSet" in done.stderr


def test_logs_and_delete(desk: Desk) -> None:
    assert desk.run("kubernetes.sh", "logs", NAME="mine").returncode == 0
    wrong = {"RESTARTS": "-1", "GRACE": "0"}  # of what only apply needs
    assert desk.run("kubernetes.sh", "delete", NAME="mine", **wrong).returncode == 0
    logs, delete = desk.calls("kubectl")
    assert "jobset.sigs.k8s.io/jobset-name=mine" in " ".join(logs)
    assert delete == ["kubectl", "delete", "jobset", "--namespace", "default", "mine"]


def test_what_is_missing_and_a_dry_run(desk: Desk) -> None:
    done = desk.run("kubernetes.sh", "apply", *TRAIN)
    assert done.returncode == 2
    assert [line.split()[1] for line in done.stderr.splitlines()] == ["NAME", "IMAGE", "TOPOLOGY", "CLAIM"]
    done = desk.run("kubernetes.sh", "apply", *TRAIN, **{**ASKED, "TOPOLOGY": "v5e:4x5"})
    assert "TOPOLOGY=v5e:4x5: v5e comes in the shapes 1x1 2x2" in done.stderr
    done = desk.run("kubernetes.sh", "apply", *TRAIN, **{**ASKED, "NAME": "Mine_1"})
    assert "NAME=Mine_1: expected small letters" in done.stderr
    done = desk.run("kubernetes.sh", *TRAIN, **ASKED)
    assert done.returncode == 2
    assert "expected render, apply, logs or delete" in done.stderr
    done = desk.run("kubernetes.sh", "--dry-run", "apply", *TRAIN, **ASKED)
    assert done.returncode == 0
    assert yaml.safe_load(done.stdout)["metadata"]["name"] == "mine"
    assert desk.calls() == []


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("IMAGE", "registry/lmx:1 --pull", "a reference such as HOST/PATH/lmx:1"),
        ("IMAGE", "a'\nhostNetwork: true", "a reference such as HOST/PATH/lmx:1"),
        ("CLAIM", "My_Runs", "small letters, digits, - and ."),
        ("CLAIM", "runs-", "neither end a - or a ."),
        ("NAMESPACE", "team.one", "small letters, digits and -, at most 63"),
        ("NAMESPACE", "n" * 64, "at most 63"),
    ],
)
def test_names_that_no_cluster_takes(name: str, value: str, expected: str, desk: Desk) -> None:
    done = desk.run("kubernetes.sh", "apply", *TRAIN, **{**ASKED, name: value})
    assert done.returncode == 2
    assert f"{name}={value}: expected" in done.stderr and expected in done.stderr
    assert desk.calls() == []


def test_names_are_texts_to_the_cluster(desk: Desk) -> None:
    """Bare, YAML reads on as true and 7 as a number."""
    made = rendered(desk, NAME="on", NAMESPACE="null", CLAIM="7")
    pod = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert (made["metadata"]["name"], made["metadata"]["namespace"]) == ("on", "null")
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "7"}
