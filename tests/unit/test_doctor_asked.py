"""`lmx doctor` as a command, and what it asks processes of its own: of a config, of a broken JAX."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lmx.__main__ import main
from lmx.commands import _asked, _health, _machine, doctor
from lmx.commands._health import FAIL, OK, WARN
from lmx.core.errors import UserError

from .test_doctor import CPU, expect

# --- What is asked in a process of its own -------------------------------------------------------------


def test_a_child_that_crashes_hangs_or_babbles_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run

    def instead(code: str) -> None:
        def call(command: list[str], **options: Any) -> Any:
            return run([sys.executable, "-S", "-c", code], **options)

        monkeypatch.setattr(_asked.subprocess, "run", call)

    instead("import os; os.abort()")
    assert _asked.asked("devices") == {"error": "it ended with code -6: it said nothing"}
    instead("import sys; sys.exit('out of luck')")
    assert _asked.asked("devices") == {"error": "it ended with code 1: out of luck"}
    instead("print(7)")
    assert _asked.asked("devices") == {"error": "7 is no answer"}
    instead("import time; time.sleep(30)")
    start = time.monotonic()
    assert _asked.asked("devices", seconds=0.5) == {"error": "no answer within 0 s"}
    assert time.monotonic() - start < 10
    instead("import os; print(); print('{\"backend\": \"%s\"}' % os.environ['JAX_PLATFORMS'])")
    assert _asked.asked("devices", cpu=True) == {"backend": "cpu"}


def test_parameters(tmp_path: Path) -> None:
    def asked(name: str, changes: dict[str, str]) -> dict[str, Any]:
        return _asked.parameters(name, changes, tmp_path, platform="cpu")

    # V D + T D + L (12 D^2 + 13 D) + 2 D with V=2048, D=128, T=128, L=4
    assert asked("quickstart", {}) == {"parameters": 1_071_872}
    half = 2048 * 128 + 128 * 128 + 2 * (12 * 128**2 + 13 * 128) + 2 * 128
    assert asked("quickstart", {"model.layers": "2"}) == {"parameters": half}
    assert asked("finetune/sst2", {"start": "hf://a/b@1"}) == {"start": "hf://a/b@1"}
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
        asked("quikstart", {})


@pytest.mark.parametrize(
    ("name", "change", "platform", "said"),
    [
        ("quickstart", {"mesh.fsdp": "3"}, "cpu", "does not fit 8 devices"),
        ("quickstart", {"mesh.fsdp": "3", "start": "hf://a/b@1"}, "cpu", "does not fit 8 devices"),
        ("finetune/sst2", {"mesh.fsdp": "3", "start": "hf://a/b@1"}, "cpu", "does not fit 8 devices"),
        ("finetune/sst2", {}, "cpu", "config.start is not set"),
        ("finetune/sst2", {"start": "nowhere"}, "cpu", "nowhere: no such folder"),
        ("pretrain/adapt_bert", {"start": "hf://a/b@1", "seed": "-1"}, "cpu", "seed=-1"),
        ("quickstart", {"execution.attention": "cudnn", "optim.decay": "-1"}, "gpu", "optim.decay=-1"),
        ("quickstart", {"execution.attention": "cudnn"}, "cpu", "cudnn is for GPUs; this is a cpu"),
    ],
)
def test_a_config_that_train_would_refuse(
    name: str, change: dict[str, str], platform: str, said: str, tmp_path: Path
) -> None:
    assert said in _asked.parameters(name, change, tmp_path, platform=platform)["error"]


def test_where_nobody_knows_the_devices_all_else_is_checked(tmp_path: Path) -> None:
    def asked(**changes: str) -> dict[str, Any]:
        own = {name.replace("__", "."): value for name, value in changes.items()}
        return _asked.parameters("quickstart", own, tmp_path, platform="", counted=False)

    assert asked(mesh__fsdp="3", execution__attention="cudnn") == {"parameters": 1_071_872}
    assert "batch.length=0" in asked(batch__length="0")["error"]


def test_a_kernel_of_the_devices_that_will_train(tmp_path: Path) -> None:
    """The child that counts parameters runs on the CPU, whatever is to train."""
    changes = {"execution.attention": "cudnn"}
    assert "error" not in _asked.parameters("quickstart", changes, tmp_path, platform="gpu")


@pytest.mark.parametrize(
    ("environment", "level", "said"),
    [
        ({}, OK, "one"),
        ({"LMX_PROCESSES": "auto"}, OK, "as many as the cluster tells"),
        ({"LMX_PROCESSES": "2"}, FAIL, "LMX_COORDINATOR, LMX_PROCESS not set"),
        (
            {"LMX_PROCESSES": "2", "LMX_PROCESS": "1", "LMX_COORDINATOR": "a:1"},
            OK,
            "this is number 1 of 2, joined by a:1",
        ),
    ],
)
def test_the_place_among_processes(environment: dict[str, str], level: str, said: str) -> None:
    expect(_health.processes(environment), level, said)


# --- The command ---------------------------------------------------------------------------------------


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Return what the children answer; no process is started."""
    given: dict[str, dict[str, Any]] = {"devices": CPU, "parameters": {"parameters": 1000}}
    monkeypatch.setattr(_asked, "asked", lambda *words, cpu=False: given[words[0]])
    return given


def test_the_command(
    answers: dict[str, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "doctor",
        "--config",
        "quickstart",
        "--config.model.layers=2",
        "--workdir",
        str(tmp_path / "run"),
    ]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    subjects = [line[5:].split(":")[0] for line in lines]
    assert subjects == [
        "python", "versions", "plugin", "processes", "held", "accelerator", "config", "memory", "disk",
        "workdir", "cache", "clock",
    ]  # fmt: skip
    assert "ok   config: quickstart: 1,000 parameters" in lines
    assert not (tmp_path / "run").exists()

    answers["parameters"] = {"error": "no config 'quikstart'"}
    assert main(["doctor", "--config", "quikstart", "--workdir", str(tmp_path)]) == 1
    assert "FAIL config: quikstart: no config 'quikstart'" in capsys.readouterr().out
    answers["parameters"] = {"start": "hf:/bert"}
    assert main(["doctor", "--config", "finetune/sst2", "--workdir", str(tmp_path)]) == 0
    assert "its model comes with hf:/bert" in capsys.readouterr().out
    assert main(["doctor", "--config.mesh.fsdp=2"]) == 2
    assert "--config.mesh.fsdp changes a config; name it" in capsys.readouterr().err


def test_a_config_is_held_against_the_devices_of_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes of four devices each, whatever this one has; a child asks as `lmx train` would."""
    real, four = _asked.asked, {**CPU, "count": 4}
    monkeypatch.setattr(
        _asked, "asked", lambda *words, cpu: four if words[0] == "devices" else real(*words, cpu=cpu)
    )
    for name, value in (("PROCESSES", "2"), ("PROCESS", "1"), ("COORDINATOR", "there:1")):
        monkeypatch.setenv(f"LMX_{name}", value)
    monkeypatch.setenv("XLA_FLAGS", "")
    changes = {"mesh.fsdp": "8", "mesh.data": "1"}
    found = {finding.subject: finding for finding in doctor.examine("quickstart", changes, str(tmp_path))}
    expect(found["config"], OK, "1,071,872 parameters")


def test_devices_that_do_not_answer_are_not_taken_for_one(
    answers: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    answers["devices"] = {"error": "no device of JAX_PLATFORMS=cuda is here"}
    found = {finding.subject: finding for finding in doctor.examine("quickstart", {}, str(tmp_path))}
    expect(found["accelerator"], FAIL, "JAX does not start: no device of JAX_PLATFORMS=cuda is here")
    expect(found["config"], OK, "1,000 parameters; its mesh is not checked")


def test_a_tpu_that_is_taken_is_left_alone(
    answers: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(_asked, "asked", lambda *words, cpu=False: asked.append(cpu) or CPU)
    monkeypatch.setattr(_machine, "tpu_files", lambda: ["/dev/accel0"])
    monkeypatch.setattr(_machine, "hardware", lambda: "tpu")
    monkeypatch.setattr(_machine, "open_in", lambda files: {7: "train"})
    found = {finding.subject: finding for finding in doctor.examine(None, {}, str(tmp_path))}
    assert asked == [True]
    expect(found["held"], FAIL, "pid 7 (train)")
    expect(found["accelerator"], WARN, "not asked, for it is taken")


def test_a_broken_jax_is_one_line_and_the_others_go_on(
    tmp_path: Path, lmx_environment: dict[str, str], checkout: Path
) -> None:
    (tmp_path / "jax.py").write_text("raise ImportError('libsomething.so: cannot open shared object file')")
    done = subprocess.run(
        [sys.executable, "-m", "lmx", "doctor", "--workdir", str(tmp_path)],
        env=lmx_environment | {"PYTHONPATH": f"{tmp_path}:{checkout}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr == ""
    lines = {line[5:].split(":")[0]: line for line in done.stdout.splitlines()}
    assert "jax: ImportError: libsomething.so: cannot open shared object file" in lines["versions"]
    assert lines["versions"].startswith("FAIL")
    assert lines["accelerator"].startswith("FAIL")
    assert lines["workdir"].startswith("ok")
    assert {"disk", "cache", "clock", "memory"} <= lines.keys()
