"""What `lmx compile` tells before anybody pays: the search for the largest batch, texts, wrong input."""

from __future__ import annotations

from typing import Any

import pytest

from lmx.__main__ import main
from lmx.commands import _compiled, _platform
from lmx.core import config as config_
from lmx.core.errors import UserError
from lmx.costs import chips

V5E = chips.parsed("v5e:2x4")
EIGHT = ["--config", "quickstart", "--topology", "cpu:8", "--config.tokenizer.size=300"]
TINY = ["--config.model.layers=2", "--config.model.width=32", "--config.model.heads=4"]


@pytest.mark.parametrize(
    ("fixed", "each", "most"),
    [
        (2.0e9, 0.1e9, 132),
        (3.5e9, 0.65e9, 18),
        (0.1e9, 7.0e9, 2),
        (1e9, 2e6, 7100),
        (14e9, 1.1e9, 1),
        (20e9, 1, 0),
    ],
)
def test_the_largest_batch_is_found_by_few_compilations(
    monkeypatch: pytest.MonkeyPatch, fixed: float, each: float, most: int
) -> None:
    """A chip of 16 GB has 15.2: (15.2 - 2) / 0.1 rows fit. The search stops within an eighth below."""

    def step(config: Any, slice_: chips.Slice, there: Any) -> _compiled.Compiled:
        rows = config["batch"]["size"] / 8
        bent = each * rows * (1.05 if rows > 40 else 1.0)  # the compiler changes its mind
        return _compiled.Compiled(rows, 1.0, arguments=int(fixed), temporaries=int(bent), limit=16e9)

    monkeypatch.setattr(_compiled, "step", step)
    config = {"batch": {"size": 8, "parts": 1}, "mesh": {"data": -1, "fsdp": 1, "tensor": 1}}
    found, count = _compiled.largest(config, V5E, _compiled.devices(chips.parsed("cpu:8")))
    exact = max((n for n in range(8000) if fixed + each * n * (1.05 if n > 40 else 1) <= 15.2e9), default=0)
    assert most * 0.94 <= exact <= most
    assert exact * 7 / 8 - 1 <= found <= exact
    assert count <= 11


def test_the_search_tries_batches_that_divide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three parts on 8 devices: each part has its rows on each of them, so that rows come by three a chip."""
    tried = []

    def step(config: Any, slice_: chips.Slice, there: Any) -> _compiled.Compiled:
        tried.append(config["batch"]["size"])
        return _compiled.Compiled(0.0, 1.0, arguments=config["batch"]["size"] * 10**8, limit=16e9)

    monkeypatch.setattr(_compiled, "step", step)
    config = {"batch": {"size": 24, "parts": 3}, "mesh": {"data": -1, "fsdp": 1, "tensor": 1}}
    found, _ = _compiled.largest(config, V5E, _compiled.devices(chips.parsed("cpu:8")))
    assert all(size % 24 == 0 for size in tried)
    assert found == 18  # 144 rows of the 152 that fit


def test_a_step_is_compiled_for_eight_devices(capsys: Any) -> None:
    assert main(["compile", *EIGHT, *TINY, "--config.mesh.fsdp=8", "--config.mesh.data=1"]) == 0
    told = capsys.readouterr().out
    assert "cpu:8: 8 chips, 1 row each; compiled in" in told
    assert "memory of a chip: arguments" in told
    assert "all-gather: " in told
    # 6 operations a parameter and token, 12 L D T more for the attention: 8 x 128 tokens on 8 chips.
    parameters = 300 * 32 + 2 * (12 * 32**2 + 13 * 32) + 2 * 32
    per_token = 6 * parameters + 12 * 2 * 32 * 128
    assert f"of which training needs {per_token * 128 / 1e12:.3g}" in told


def test_the_devices_are_simulated_where_a_process_has_none_yet(run_lmx: Any) -> None:
    """As a user calls it, in a process of its own; scanned layers are compiled as they are held, as one."""
    words = ["--config", "quickstart", "--topology", "cpu:2", "--config.execution.layers=scanned"]
    done = run_lmx("compile", *words, env={"XLA_FLAGS": ""})
    assert "cpu:2: 2 chips, 4 rows each; compiled in" in done.stdout
    assert "all-reduce: " in done.stdout


def test_chips_that_a_mesh_leaves_idle_are_told(capsys: Any) -> None:
    assert main(["compile", *EIGHT, *TINY, "--config.mesh.data=2", "--config.batch.size=4"]) == 0
    told = capsys.readouterr().out
    assert "cpu:8: 2 chips, 2 rows each (6 more are idle); compiled in" in told


def test_an_encoders_hidden_places_alone_count_for_the_vocabulary(capsys: Any) -> None:
    """Of 16 tokens a row 2 are hidden at most; a product at each place would be 8 times that many."""
    words = ["compile", "--config", "pretrain/bert_small", "--topology", "cpu:8"]
    sizes = {"model.layers": 1, "model.width": 16, "model.heads": 2, "model.mlp_width": 32,
             "tokenizer.size": 64, "batch.size": 8, "batch.length": 16}  # fmt: skip
    assert main([*words, *(f"--config.{name}={value}" for name, value in sizes.items())]) == 0
    body = 4 * (16**2 + 16) + 2 * 16 * 32 + 32 + 16 + 4 * 16 + 2 * 16
    head = 64 * 16 + 64 + 16**2 + 16 + 2 * 16
    needed = 16 * (6 * body + 12 * 16 * 16) + 6 * head * 2
    assert f"of which training needs {needed / 1e12:.3g}" in capsys.readouterr().out


def test_a_config_says_how_many_ids() -> None:
    plain = config_.plain(config_.load("quickstart"))
    assert _compiled.sized(plain)["model"]["vocab_size"] == plain["tokenizer"]["size"]
    own = {**plain, "model": {**plain["model"], "vocab_size": 99}}
    assert _compiled.sized(own)["model"]["vocab_size"] == 99
    with pytest.raises(UserError, match=r"model\.vocab_size is for the data to tell"):
        _compiled.sized({**plain, "tokenizer": {"name": "characters", "size": 300}})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--config", "quickstart", "--topology", "v5e:9"], "topology 'v5e:9' has 1 dimension"),
        (["--config", "quickstart", "--topology", "h100:8"], "expected such as v5e:4x4"),
        (["--config", "finetune/sst2", "--topology", "cpu:8"], "finetune/sst2 is no pretraining config"),
        ([*EIGHT, "--config.batch.size=12"], "batch.size=12 does not divide over 8 devices; the nearest"),
        ([*EIGHT, "--config.mesh.fsdp=3"], "mesh.data=-1, mesh.fsdp=3, mesh.tensor=1 does not fit 8 devices"),
        ([*EIGHT, "--config.batch.parts=2"], "batch.size=8 in batch.parts=2 does not divide over 8 devices"),
        ([*EIGHT, "--config.batch.size=0"], "batch.size=0, batch.length=128; both must be at least 1"),
        ([*EIGHT, "--config.batch.length=-5"], "batch.length=-5; both must be at least 1"),
        ([*EIGHT, "--config.batch.length=200"], "batch.length=200 is longer than model.positions=128"),
        ([*EIGHT, "--config.batch.parts=0"], "batch.parts=0; expected a divisor of batch.size=8"),
        (["--config", "quickstart", "--topology", "cpu:99999"], "has 99999 chips; slices of cpu have 1 to"),
        ([*EIGHT, "--search"], "--search: nobody knows the memory of a cpu"),
        ([*EIGHT, "--config.mesh.tensor=8"], "mesh.tensor=8 does not divide the model's heads (4)"),
    ],
)
def test_what_cannot_be_compiled_is_one_line(words: list[str], told: str, capsys: Any) -> None:
    assert main(["compile", *words]) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1


def test_a_state_that_cannot_fit_is_told_before_compiling(capsys: Any) -> None:
    """GPT-2 XL whole on each chip: 1.56 billion parameters and AdamW's two averages, in f32, 18.7 GB."""
    config = _compiled.sized(config_.plain(config_.load("pretrain/gpt2_xl")))
    config["mesh"] = {"data": 8, "fsdp": 1, "tensor": 1}
    found = _compiled.step(config, V5E, _compiled.devices(chips.parsed("cpu:8")))
    assert not found.fits and found.seconds == 0
    assert "does not fit: the state alone needs 18.7 GB of a chip's 16 GB" in _compiled.told(found, V5E)


def test_a_state_beyond_the_machine_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    _platform.check_fits(10**6)
    with pytest.raises(UserError, match=r"need 1000000\.0 GB a device"):
        _platform.check_fits(10**15)


def test_sizes_as_people_read_them() -> None:
    assert [_compiled._bytes(size) for size in (4, 6444, 154_389_504, 2.5e9)] == [
        "4 B",
        "6.44 kB",
        "154 MB",
        "2.5 GB",
    ]
