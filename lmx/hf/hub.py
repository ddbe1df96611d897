"""Models of the Hugging Face hub, fetched by reference: `hf://ORG/NAME@REVISION`.

Only what lmx reads is fetched, into the cache of the hub's own library; what was fetched is held against the
hashes that the hub lists for the commit, what the cache had already against their sizes. The token, where one
is needed, is the library's own business: it takes HF_TOKEN, or the file that `hf auth login` writes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from lmx.core import log
from lmx.core.errors import UserError, one_line
from lmx.hf._index import listed
from lmx.hf._reference import SCHEME, is_reference, parse, suggestion
from lmx.hf._safetensors import quoted

__all__ = ["choose", "fetch", "is_reference", "parse", "suggestion"]

# Files beside the weights. No *.py, which nobody here would run, and no *.model, which nobody here reads.
FILES = frozenset(
    "config.json generation_config.json tokenizer.json tokenizer_config.json special_tokens_map.json "
    "added_tokens.json vocab.json merges.txt vocab.txt".split()
)
# Weights, in the order in which `lmx.hf._open` looks for them: one file, or an index and its shards.
WEIGHTS = (
    ("model.safetensors", re.compile(r"model-[\w.-]+\.safetensors", re.ASCII)),
    ("pytorch_model.bin", re.compile(r"pytorch_model-[\w.-]+\.bin", re.ASCII)),
)
INDEX = ".index.json"

_COMMIT = re.compile("[0-9a-f]{40}")
_ADDRESS = re.compile(r"(https?://)([^\s/@]*@)?([^\s/?#'\"<>]+)[^\s'\"<>]*")
_TOKEN = re.compile(r"hf_\w{8,}|Bearer\s+\S+")


class File(NamedTuple):
    """What the hub lists of one file: how many bytes, and sha256 or git's own hash; None and "" if untold."""

    size: int | None
    digest: str


def fetch(reference: str, say: Callable[[str], None] = log.say) -> Path:
    """Return the local folder of a model of the hub, fetching what of it is not in the library's cache.

    reference: as `parse` takes it. A commit hash that the cache holds needs no network; for any other
    revision the hub is asked which commit it is now. Where the hub cannot be reached, it is the commit that
    it was when the cache was last told, if the cache has all of that. `say` is told of either.
    Errors: UserError, one line, where the name is wrong or access refused, where the hub cannot be reached
    and the cache has no whole copy, and where the disk is full or a file is not what the hub lists.
    """
    repo, revision = parse(reference)
    from huggingface_hub import errors

    with _discreet():
        pinned = revision if revision and _COMMIT.fullmatch(revision) else None
        if pinned and _lacking(reference, repo, pinned) == []:
            return _folder(repo, pinned)
        try:
            return _download(reference, repo, revision, say)
        except (
            errors.HTTPError, errors.XetDownloadError, OSError, ValueError, TypeError, KeyError, RuntimeError,
        ) as error:  # fmt: skip
            commit = pinned or _remembered(repo, revision)
            if commit and _silence(error) and _usable(reference, repo, commit):
                last = "" if pinned else f", of revision {commit}: what it was when last asked for"
                found = _folder(repo, commit)
                say(f"{reference}: the hub cannot be reached; reading the copy in {found}{last}")
                return found
            raise UserError(f"{reference}: {_fault(error, repo, revision)}") from error


@contextmanager
def _discreet() -> Iterator[None]:
    """Keep the library from telling the hub about this machine, and from showing addresses that are signed.

    Its store of blobs shared between repositories stays off too: it turns the blobs themselves into links,
    out of the folders in which `lmx.core.files.open_file` follows links.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import logging

    names = "HF_HUB_DISABLE_TELEMETRY HF_HUB_DISABLE_SHARED_BLOBS HF_HUB_DISABLE_SYMLINKS_WARNING".split()
    before, verbosity = {name: getattr(constants, name) for name in names}, logging.get_verbosity()
    for name in names:
        setattr(constants, name, True)
    if verbosity == logging.WARNING:  # anything else is what the user asked for
        logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        for name, value in before.items():
            setattr(constants, name, value)


# --- What there is, and what is wanted of it -----------------------------------------------------------


def choose(reference: str, names: Iterable[str]) -> list[str]:
    """Return which of a repository's files to fetch: one set of weights, and what stands beside it.

    reference: for messages. Errors: UserError where there are no weights that lmx reads, or where a name
    leads out of the folder.
    """
    names = sorted(names)
    for name in names:
        if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
            raise UserError(
                f"{reference}: lists a file {quoted(name)}, which leads out of its folder; use another model"
            )
    beside = [name for name in names if name in FILES]
    for whole, shards in WEIGHTS:
        if whole in names:
            return [*beside, whole]
        if whole + INDEX in names:
            return [*beside, whole + INDEX, *filter(shards.fullmatch, names)]
    expected = ", ".join(f"{whole} or {whole}{INDEX}" for whole, _ in WEIGHTS)
    raise UserError(
        f"{reference}: has {listed(names) or 'no file'}, but none of {expected}; name a model that has one"
    )


def _folder(repo: str, commit: str) -> Path:
    """Return where the library's cache keeps a commit, whether or not it is there."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE).expanduser().resolve()
    return cache / f"models--{repo.replace('/', '--')}" / "snapshots" / commit


def _ref(repo: str, revision: str | None) -> Path | None:
    """Return where the library's cache keeps the commit of a branch or tag; None where it has no place."""
    refs = _folder(repo, "").parent / "refs"
    path = Path(os.path.normpath(refs / (revision or "main")))
    return path if path != refs and path.is_relative_to(refs) else None


def _remembered(repo: str, revision: str | None) -> str | None:
    """Return the commit that a branch or tag was when the cache was last told; None where it was not."""
    path = _ref(repo, revision)
    try:
        found = path.read_bytes()[:41].decode("ascii", "replace") if path else ""
    except OSError:
        return None
    return found if _COMMIT.fullmatch(found) else None


def _remember(repo: str, revision: str | None, commit: str) -> None:
    """Note the commit of a branch or tag as the library does; a cache that cannot be written does without."""
    path = _ref(repo, revision)
    if path is not None and commit not in (revision, _remembered(repo, revision)):
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(commit, encoding="ascii")


def _lacking(reference: str, repo: str, commit: str) -> list[str] | None:
    """Return which wanted files the cache has not, or not whole; None where it has no list of the commit."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        sizes = {file.path: file.size for file in get_cached_repo_tree(repo, revision=commit)}
    except CachedRepoTreeNotFoundError:
        return None
    folder = _folder(repo, commit)
    return [name for name in choose(reference, sizes) if not _is_whole(folder / name, sizes[name])]


def _is_whole(path: Path, size: int | None) -> bool:
    return path.is_file() and size in (None, path.stat().st_size)


def _usable(reference: str, repo: str, commit: str) -> bool:
    """Return whether the cache's copy will do without the hub: another tool left it, and it has weights.

    Errors: UserError where it is known to be incomplete.
    """
    folder = _folder(repo, commit)
    lacking = _lacking(reference, repo, commit)
    if lacking and folder.is_dir():
        raise UserError(
            f"{reference}: the hub cannot be reached and the cache lacks {listed(lacking)}; run it again "
            "where there is a network"
        )
    try:
        names = os.listdir(folder)
        return "config.json" in names and bool(choose(reference, names))
    except (OSError, UserError):
        return False


# --- Fetching ------------------------------------------------------------------------------------------


def _download(reference: str, repo: str, revision: str | None, say: Callable[[str], None]) -> Path:
    """Ask the hub which commit a revision is and what it has, and fetch what the cache has not."""
    from huggingface_hub import HfApi, constants, snapshot_download

    wait = constants.HF_HUB_ETAG_TIMEOUT
    found = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=wait)
    commit, siblings = found.sha or "", found.siblings or []
    if not _COMMIT.fullmatch(commit) or (_COMMIT.fullmatch(revision or "") and revision != commit):
        raise UserError(
            f"{reference}: the hub answers with commit {quoted(commit)}, expected one of 40 hex digits and, "
            "where one is named, that one; check HF_ENDPOINT"
        )
    files = {each.rfilename: _file(each) for each in siblings}
    wanted = choose(reference, files)
    if commit != revision:
        say(
            f"{reference} is now at revision {commit}; name it so that a repetition reads the same: "
            f"{SCHEME}{repo}@{commit}"
        )
    folder = _folder(repo, commit)
    fresh = {name: files[name] for name in wanted if not _is_whole(folder / name, files[name].size)}
    _check_space(reference, folder.parents[1], fresh)
    # Names rather than patterns: a star would match what lies in subfolders as well.
    folder = Path(snapshot_download(repo, revision=commit, allow_patterns=wanted))
    _check_files(reference, folder, fresh)
    if missing := [name for name in wanted if not (folder / name).is_file()]:
        raise UserError(f"{reference}: the hub did not give {listed(missing)}, which it lists; run it again")
    _remember(repo, revision, commit)
    return folder


def _file(sibling: Any) -> File:
    if sibling.lfs is not None:
        return File(sibling.lfs.size, sibling.lfs.sha256)
    return File(sibling.size, sibling.blob_id or "")


def _check_space(reference: str, place: Path, files: Mapping[str, File]) -> None:
    """Raise UserError where the disk has no room for the files.

    place: the repository's folder in the cache.
    """
    blobs = {file.digest or name: file for name, file in files.items()}
    needed = sum(file.size or 0 for name, file in blobs.items() if not (place / "blobs" / name).exists())
    there = next(folder for folder in (place, *place.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"{reference}: needs {needed / 1e6:,.0f} MB on the disk of {there}, where {free / 1e6:,.0f} MB "
            "are free; make room, or set HF_HOME to a folder on a larger disk"
        )


def _check_files(reference: str, folder: Path, files: Mapping[str, File]) -> None:
    """Raise UserError where files are not those that the hub lists, and take them out of the cache."""
    wrong = []
    for name, file in files.items():
        path = folder / name
        if not path.is_file() or _digest(path, file.digest) == file.digest:
            continue
        wrong.append(name)
        blob = path.resolve()
        path.unlink()
        if blob.parent == folder.parents[1] / "blobs":
            blob.unlink(missing_ok=True)
    if wrong:
        raise UserError(
            f"{reference}: came with {listed(wrong)} of another hash than the hub lists; "
            "deleted, run it again"
        )


def _digest(path: Path, like: str) -> str:
    """Return the hash of a file, of the kind of the one given: sha256, git's hash of a blob, or none."""
    with open(path, "rb") as stream:
        if len(like) == 64:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        if len(like) == 40:
            head = f"blob {os.fstat(stream.fileno()).st_size}\0".encode()
            return hashlib.file_digest(stream, lambda: hashlib.sha1(head, usedforsecurity=False)).hexdigest()
    return like


# --- What went wrong -----------------------------------------------------------------------------------


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what caused it."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _silence(error: BaseException) -> BaseException | None:
    """Return the error that means that the hub gave no answer, or none of its own; None for any other."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    for each in _chain(error):
        if isinstance(each, HfHubHTTPError):
            return each if each.response.status_code >= 500 else None
        if isinstance(each, (HTTPError, ConnectionError, TimeoutError)):
            return each
    return None


def _fault(error: BaseException, repo: str, revision: str | None) -> str:
    """Return what to say of an error of the library: what is wrong, and how to go on."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    for each in _chain(error):
        if isinstance(each, HfHubHTTPError):
            return _refusal(each, repo, revision)
        if isinstance(each, OSError) and each.errno in (errno.ENOSPC, errno.EDQUOT):
            return "the disk of the cache is full; make room, or set HF_HOME to a folder on a larger disk"
        if isinstance(each, OSError) and each.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return f"the cache cannot be written ({_shown(each)}); set HF_HOME to a folder that can"
    if silence := _silence(error):
        offline = isinstance(silence, OfflineModeIsEnabled)
        why = "HF_HUB_OFFLINE is set" if offline else _shown(silence)
        return f"the hub cannot be reached ({why}) {_way_on(repo, revision)}"
    return f"the download failed ({_shown(error)}); run it again"


def _refusal(error: Any, repo: str, revision: str | None) -> str:
    """Return what to say of an answer of the hub that is an error."""
    from huggingface_hub import errors

    status = error.response.status_code
    if isinstance(error, errors.GatedRepoError):
        return (
            f"is open only to those whom its owners let in (HTTP {status}); ask for access on its page, then "
            "set HF_TOKEN or run: hf auth login"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no such model, or a private one; check the name, or run: hf auth login"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the hub has no revision {quoted(revision)} of it; name a branch, a tag or a commit"
    if status in (401, 403):
        return f"the hub refuses access (HTTP {status}); check HF_TOKEN, or run: hf auth login"
    if status == 429:
        return "the hub refuses more requests for now (HTTP 429); wait some minutes and run it again"
    if status >= 500:
        return f"the hub fails (HTTP {status}) {_way_on(repo, revision)}"
    return f"the hub refuses the request ({_shown(error)}); check the name and HF_ENDPOINT"


def _way_on(repo: str, revision: str | None) -> str:
    """Return how to go on without the hub: a commit that the cache has, or a folder fetched elsewhere."""
    held = [path for path in _folder(repo, "").glob("*") if _COMMIT.fullmatch(path.name)]
    if held and not _COMMIT.fullmatch(revision or ""):
        newest = max(held, key=lambda path: path.stat().st_mtime)
        return f"to tell its commit; name the one that the cache has: {SCHEME}{repo}@{newest.name}"
    chosen = f" --revision {shlex.quote(revision)}" if revision else ""
    return (
        "and the cache has no copy of it; run it again later, or run, where there is a network, "
        f"hf download {repo}{chosen} --local-dir FOLDER, and name that folder"
    )


def _shown(error: BaseException) -> str:
    """Return an error as one line without what an address or a token may give away.

    >>> _shown(OSError("GET https://me:word@host.org/a?Signature=x failed"))
    'GET https://host.org failed'
    """
    text = _ADDRESS.sub(r"\1\3", one_line(error))
    return _TOKEN.sub("***", text)
