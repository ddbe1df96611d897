"""Run in a process of its own by test_hf_hostile.py: import folders, with an eye on memory and on events.

Arguments: the folder of folders, whose first is a good one; the result's file. `main` is called in this
process, so that what it does is seen by the audit hook and counted in this process's memory.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

FORBIDDEN = (
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty",
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "pickle.find_class", "marshal.loads",
    "ctypes.dlopen", "urllib.Request", "webbrowser.open", "code.__new__",
)  # fmt: skip


def resident() -> int:
    """Bytes of memory this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak() -> int:
    """The most memory this program has held; getrusage would count what its parent held before it."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def main() -> None:
    root, result = Path(sys.argv[1]), Path(sys.argv[2])
    from lmx.__main__ import main as lmx

    seen: list[str] = []
    watching = False
    checkout = Path(__file__).resolve().parents[2] / "lmx"
    python = [sys.prefix, sys.base_prefix, *(entry for entry in sys.path if "site-packages" in entry)]
    places = [os.path.realpath(one) for one in (root, checkout, *python, "/proc", "/dev", "/sys", "/etc")]
    places += [os.environ["JAX_COMPILATION_CACHE_DIR"]]

    def inside(file: Any) -> bool:
        if isinstance(file, int):
            return True
        real = os.path.realpath(os.fsdecode(file))
        return any(real == place or real.startswith(place + os.sep) for place in places)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if not watching:
            return
        if event in FORBIDDEN:
            importing = event == "marshal.loads" and "importlib" in sys._getframe(1).f_code.co_filename
            itself = event == "ctypes.dlopen" and arguments == (None,)  # lmx.core.memory tunes the allocator
            if importing or itself:
                return
            seen.append(f"{event} {arguments!r}"[:200])
        elif event == "open" and not inside(arguments[0]):
            seen.append(f"{event} {arguments!r}"[:200])
        elif event in ("exec", "compile"):
            name = arguments[0].co_filename if event == "exec" else arguments[1]
            if not isinstance(name, str) or Path(name).is_relative_to(root):
                seen.append(f"{event} {name!r}")
        elif event == "import" and arguments[0].split(".")[0] in ("evil", "modeling", "canary"):
            seen.append(f"{event} {arguments[0]}")

    sys.addaudithook(watch)
    outcomes: dict[str, Any] = {}
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    before = 0
    for i, folder in enumerate(folders):
        if i == 1:
            watching, before = True, resident()
        out, said, printed = root / f"{folder.name}.out", io.StringIO(), io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed):
            try:
                code = lmx(["import-hf", "--source", str(folder), "--output", str(out)])
            except BaseException as error:
                code, said = -1, io.StringIO(f"{type(error).__name__}: {error}")
        outcomes[folder.name] = {"code": code, "said": said.getvalue(), "peak": peak()}
    watching = False
    result.write_text(json.dumps({"before": before, "outcomes": outcomes, "seen": seen}))


if __name__ == "__main__":
    main()
