"""Models of the Hugging Face hub: what is asked for, what comes into the cache, what is said of faults."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants

from lmx.core.errors import UserError
from lmx.hf._open import open_folder
from lmx.hf.hub import _shown, choose, fetch, is_reference, parse, suggestion
from tests.unit._hub import FILES, NEW, OLD, REPO, TENSORS, TOKEN, WEIGHTS, Hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of one model, to which the library is directed, with an empty cache and no token."""
    server = Hub()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    point_to(monkeypatch, server.address)
    for name in ("HF_HUB_CACHE", "HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH", "AGENT_HARNESSES_PATH"):
        monkeypatch.setattr(constants, name, str(tmp_path / name))
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setattr(constants, name, False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    huggingface_hub.close_session()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()
    thread.join()


def point_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def refused(reference: str, *parts: str) -> str:
    with pytest.raises(UserError) as error:
        fetch(reference, lambda text: None)
    text = str(error.value)
    assert text.startswith(reference), text
    assert "\n" not in text
    assert len(text) < 500
    assert TOKEN not in text
    for part in parts:
        assert part in text
    return text


# --- References ----------------------------------------------------------------------------------------


RIGHT = {
    "hf://gpt2": ("gpt2", None),
    f"hf://gpt2@{OLD}": ("gpt2", OLD),
    "hf://openai-community/gpt2@main": ("openai-community/gpt2", "main"),
    "hf://a/B_c-1.5@refs/pr/3": ("a/B_c-1.5", "refs/pr/3"),
    f"hf://{'o' * 96}/{'n' * 96}": (f"{'o' * 96}/{'n' * 96}", None),
}


def test_a_reference_names_a_repository_and_a_revision() -> None:
    assert {text: parse(text) for text in RIGHT if is_reference(text)} == RIGHT


WRONG = (
    "gpt2 ./gpt2 hf:gpt2 hf:// hf://@main hf://a/b/c hf:///a hf://a/ hf://a//b hf://../a hf://a/.. hf://a..b "
    f"hf://.a hf://-a hf://a- hf://a--b hf://a.git hf://a\\b hf://ä/b hf://a%2fb hf://{'a' * 97} hf://a:b "
    "hf://a@ hf://a@.. hf://a@x/../y hf://https://a/b"
).split()


def test_anything_else_is_refused_with_an_example() -> None:
    expected = r"; expected hf://ORG/NAME@REVISION, such as hf://\S+@[0-9a-f]{40}$"
    for text in (*WRONG, "hf://a b", "hf://a@b c", "hf://a@b\n", "hf://a\n", "hf://a@\x1b[2J"):
        with pytest.raises(UserError, match=expected) as error:
            parse(text)
        assert str(error.value).isprintable()


SLIPS = {
    "google-bert/bert-base-uncased": "google-bert/bert-base-uncased",
    "org/name@main": "org/name@main",
    "hf:/x/y": "x/y",
    "hf:x/y@v1": "x/y@v1",
    "hf:gpt2": "gpt2",
    "hf:///x/y": "x/y",
    " org/name": "org/name",
    "https://huggingface.co/x/y": "x/y",
    "https://huggingface.co/x/y/": "x/y",
    "http://www.huggingface.co/gpt2?a=b#c": "gpt2",
    "huggingface.co/x/y/tree/main": "x/y@main",
    f"hf.co/x/y/blob/{NEW}/config.json": f"x/y@{NEW}",
}


def test_a_slip_is_told_what_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text, meant in SLIPS.items():
        assert suggestion(text) == f"; did you mean hf://{meant}?", text
    (tmp_path / "runs").mkdir()
    others = "runs runs/one /x/y ./x/y ../x a/b/c x//y https://a.org/x/y hf://x/y hf:/ hf:/a/b/c".split()
    for text in (*others, "a/\x1b[2J", "hf:/x/y\n/z", "https://huggingface.co/datasets/x/y", ""):
        assert suggestion(text) == "", text


# --- Fetching ------------------------------------------------------------------------------------------


def test_a_model_is_fetched_and_opened(hub: Hub, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    said: list[str] = []
    folder = fetch(f"hf://{REPO}", said.append)

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert all(path.is_symlink() for path in folder.iterdir())
    with open_folder(folder) as stored:
        np.testing.assert_array_equal(stored.read("wte"), TENSORS["wte"])
    assert said == [
        f"hf://{REPO} is now at revision {NEW}; name it so that a repetition reads the same: hf://{REPO}@{NEW}"
    ]
    # Nothing else was asked for, and nothing told about this machine.
    assert hub.fetched == sorted(FILES)
    assert {path for _, path in hub.asked if "/resolve/" not in path} == {
        f"/api/models/{REPO}",
        f"/api/models/{REPO}/tree/{NEW}",
    }
    assert all(headers["Authorization"] == f"Bearer {TOKEN}" for headers in hub.headers)
    agents = {headers["User-Agent"] for headers in hub.headers}
    assert not any("torch" in agent or "agent/" in agent for agent in agents)
    assert TOKEN not in "".join(capfd.readouterr())
    assert constants.HF_HUB_DISABLE_TELEMETRY is False  # as it was


def test_a_commit_in_the_cache_needs_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.branches["main"], hub.commits[OLD] = OLD, FILES
    said: list[str] = []
    folder = fetch(f"hf://{REPO}@main", said.append)
    hub.branches["main"] = NEW
    newer = fetch(f"hf://{REPO}@main", said.append)
    assert [line.split("@")[-1] for line in said] == [OLD, NEW]
    assert (folder.name, newer.name) == (OLD, NEW)
    assert hub.fetched == sorted(FILES), "what both commits have is fetched once"

    hub.asked.clear()
    assert fetch(f"hf://{REPO}@{OLD}", said.append) == folder
    assert hub.asked == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(f"hf://{REPO}@{OLD}", said.append) == folder
    assert len(said) == 2
    refused(f"hf://{REPO}@v9", "HF_HUB_OFFLINE is set", f"name the one that the cache has: hf://{REPO}@")
    refused(
        f"hf://{REPO}@{'b' * 40}",
        "HF_HUB_OFFLINE is set",
        "the cache has no copy of it",
        "--local-dir FOLDER",
    )


def test_a_broken_transfer_goes_on_where_it_stopped(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.drop.add(WEIGHTS)
    folder = fetch(f"hf://{REPO}@{NEW}")
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    (asked,) = hub.ranges
    assert len(FILES[WEIGHTS]) // 2 - 1000 < int(asked.removeprefix("bytes=").removesuffix("-"))


def test_an_interrupted_fetch_is_completed(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch(f"hf://{REPO}@{NEW}")
    os.remove((folder / WEIGHTS).resolve())
    os.remove(folder / WEIGHTS)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(f"hf://{REPO}@{NEW}", f"the cache lacks '{WEIGHTS}'", "run it again")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.asked.clear()
    fetch(f"hf://{REPO}@{NEW}")
    assert hub.fetched == [WEIGHTS]
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_what_another_tool_left_serves_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("config.json", WEIGHTS):
        huggingface_hub.hf_hub_download(REPO, name, revision=NEW)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said: list[str] = []
    folder = fetch(f"hf://{REPO}@{NEW}", said.append)
    assert said == [f"hf://{REPO}@{NEW}: the hub cannot be reached; reading the copy in {folder}"]
    with open_folder(folder) as stored:
        assert set(stored.specs) == {"wte"}
    os.remove(folder / WEIGHTS)
    refused(f"hf://{REPO}@{NEW}", "the cache has no copy of it")


@pytest.mark.parametrize("writer", ["lmx", "the library"])
def test_a_branch_without_a_network_is_what_it_was(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    hub.branches["v1"] = NEW
    for revision in ("main", "v1"):
        if writer == "lmx":
            fetch(f"hf://{REPO}@{revision}")
        else:
            huggingface_hub.snapshot_download(REPO, revision=revision)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for reference in (f"hf://{REPO}", f"hf://{REPO}@main", f"hf://{REPO}@v1"):
        said: list[str] = []
        folder = fetch(reference, said.append)
        assert folder.name == NEW
        (line,) = said
        assert line == (
            f"{reference}: the hub cannot be reached; reading the copy in {folder}, of revision {NEW}: "
            "what it was when last asked for"
        )
    refused(f"hf://{REPO}@v2", "HF_HUB_OFFLINE is set")
    os.remove(folder / WEIGHTS)
    refused(f"hf://{REPO}", f"the cache lacks '{WEIGHTS}'")


def test_the_notes_of_branches_stay_in_their_folder(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch(f"hf://{REPO}@{NEW}")
    refs = folder.parents[1] / "refs"
    assert not refs.exists()
    aside = folder.parents[1] / "aside"
    aside.write_text(NEW)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(f"hf://{REPO}@{aside}", "HF_HUB_OFFLINE is set")
    refs.mkdir()
    (folder.parent / "other").symlink_to(folder)
    for text in (NEW[:-1], NEW + "0", "../" + NEW, "", "other"):
        (refs / "main").write_text(text)
        refused(f"hf://{REPO}", "HF_HUB_OFFLINE is set")
    (refs / "main").write_text(NEW)
    assert fetch(f"hf://{REPO}") == folder


def test_a_fresh_process_takes_its_settings_from_the_environment(
    hub: Hub, tmp_path: Path, checkout: Path
) -> None:
    mine = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    theirs = ("HF_", "HUGGING", "TRANSFORMERS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    program = f"from lmx.hf import hub; print(hub.fetch('hf://{REPO}'))"
    environment = {**kept, **mine, "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == tmp_path / "home/hub/models--org--small/snapshots" / NEW
    assert f"{REPO} is now at revision {NEW}" in done.stderr


# --- Which files ---------------------------------------------------------------------------------------

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def test_one_set_of_weights_is_chosen() -> None:
    index, torch = WEIGHTS + ".index.json", "pytorch_model.bin.index.json"
    for names, wanted in (
        ([WEIGHTS, *SHARDS, index, "config.json"], ["config.json", WEIGHTS]),
        ([*SHARDS, index, "pytorch_model.bin"], [index, *SHARDS]),
        (["pytorch_model.bin", "training_args.bin"], ["pytorch_model.bin"]),
        ([torch, "pytorch_model-1-of-1.bin", "pytorch_model-x/y.bin"], [torch, "pytorch_model-1-of-1.bin"]),
    ):
        assert choose("hf://x", names) == wanted


def test_torch_files_are_fetched_where_there_are_no_others(hub: Hub) -> None:
    hub.commits[NEW] = {"config.json": b"{}", "pytorch_model.bin": b"torch", "run.py": b""}
    assert sorted(os.listdir(fetch(f"hf://{REPO}@{NEW}"))) == ["config.json", "pytorch_model.bin"]


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "..\\x", "\\\\host\\x", "../config.json"])
def test_a_name_that_leads_elsewhere_is_refused(hub: Hub, name: str, tmp_path: Path) -> None:
    hub.commits[NEW] = {**FILES, name: b"x"}
    refused(f"hf://{REPO}@{NEW}", "leads out of its folder")
    assert len(hub.asked) == 1
    assert not (tmp_path / "HF_HUB_CACHE").exists()


def test_a_model_without_weights_is_refused(hub: Hub) -> None:
    hub.commits[NEW] = {"config.json": b"{}", "model.gguf": b""}
    refused(f"hf://{REPO}", "has 'config.json', 'model.gguf', but none of model.safetensors or")


# --- Faults --------------------------------------------------------------------------------------------


REFUSALS = {
    (404, "RepoNotFound"): "the hub has no such model, or a private one; check the name",
    (401, "RepoNotFound"): "the hub has no such model, or a private one; check the name",
    (404, "RevisionNotFound"): "the hub has no revision 'v9' of it; name a branch, a tag or a commit",
    (401, "GatedRepo"): "is open only to those whom its owners let in (HTTP 401); ask for access",
    (403, "GatedRepo"): "is open only to those whom its owners let in (HTTP 403); ask for access",
    (401, ""): "the hub refuses access (HTTP 401); check HF_TOKEN, or run: hf auth login",
    (403, ""): "the hub refuses access (HTTP 403); check HF_TOKEN",
    (429, ""): "the hub refuses more requests for now (HTTP 429)",
    (503, ""): "the hub fails (HTTP 503) and the cache has no copy of it; run it again later",
    (400, ""): "the hub refuses the request (",
}


def test_a_refusal_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for answer, part in REFUSALS.items():
        hub.refusal = answer
        refused(f"hf://{REPO}@v9", part)


def test_unknown_names_and_gates(hub: Hub) -> None:
    refused("hf://org/none", "the hub has no such model")
    refused(f"hf://{REPO}@v9", "the hub has no revision 'v9'")
    refused(f"hf://{REPO}@{OLD}", f"the hub has no revision '{OLD}'")
    hub.gated = True  # the list is open, the files are not
    refused(f"hf://{REPO}", "is open only to those whom its owners let in (HTTP 403)")


def test_no_network_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch(f"hf://{REPO}@{NEW}")
    point_to(monkeypatch, "http://127.0.0.1:9")
    assert fetch(f"hf://{REPO}@{NEW}") == folder
    refused(
        f"hf://{REPO}@{OLD}", "cannot be reached (", "Connection refused", f"--revision {OLD} --local-dir"
    )
    refused(f"hf://{REPO}", "cannot be reached (", f"name the one that the cache has: hf://{REPO}@{NEW}")
    point_to(monkeypatch, "no address")
    refused("hf://other", "cannot be reached (", "hf download other --local-dir FOLDER")


def test_a_hub_that_is_silent_is_not_waited_for(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
    hub.slow = 0.5
    refused(f"hf://{REPO}@{NEW}", "cannot be reached (", "timed out", "run it again later")


def test_a_full_disk_is_said_before_and_after(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        assert constants.HF_HUB_DISABLE_SHARED_BLOBS, "their links lead where open_folder does not follow"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    refused(f"hf://{REPO}@{NEW}", "the disk of the cache is full; make room, or set HF_HOME")
    usage = shutil.disk_usage("/")._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    hub.asked.clear()
    refused(f"hf://{REPO}@{NEW}", "needs 0 MB on the disk of", "make room, or set HF_HOME")
    assert hub.fetched == []


def test_a_swapped_file_is_deleted_and_fetched_again(hub: Hub) -> None:
    other = bytearray(FILES[WEIGHTS])
    other[-1] ^= 1
    hub.swapped = {WEIGHTS: bytes(other), "merges.txt": b"#version: 0.3\n"}
    text = refused(f"hf://{REPO}@{NEW}", "of another hash than the hub lists; deleted, run it again")
    assert f"'merges.txt', '{WEIGHTS}'" in text
    hub.swapped = {}
    folder = fetch(f"hf://{REPO}@{NEW}")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES


def test_a_torn_file_in_the_cache_is_noticed(hub: Hub) -> None:
    folder = fetch(f"hf://{REPO}@{NEW}")
    os.truncate(folder / WEIGHTS, 1000)
    refused(f"hf://{REPO}@{NEW}", f"'{WEIGHTS}' of another hash")
    assert (fetch(f"hf://{REPO}@{NEW}") / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_another_commit_than_asked_for_is_refused(hub: Hub) -> None:
    hub.branches[OLD] = NEW
    refused(f"hf://{REPO}@{OLD}", f"the hub answers with commit '{NEW}'")


def test_what_is_shown_has_no_secret() -> None:
    said = f"GET https://me:word@host.org:80/a/b?Signature=x&y: {TOKEN}\nBearer abc"
    assert _shown(OSError(said)) == "GET https://host.org:80 *** ***"
