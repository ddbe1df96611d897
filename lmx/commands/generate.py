"""Generate: continue prompts with a checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from lmx.commands import _arguments


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --checkpoint, --prompt and the settings of sampling."""
    parser.add_argument(
        "--checkpoint", required=True, help="a run's folder, FOLDER@best, FOLDER@STEP, or a HF folder"
    )
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        help="may be given several times; a blank line parts what comes of them",
    )
    parser.add_argument("--tokens", type=_arguments.count, default=64, help="new tokens at most")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token")
    parser.add_argument("--top-k", type=int, default=40, help="draw among the k likeliest only; 0 for all")
    _arguments.task(parser)
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Print each prompt with its continuation, or, on a line of its own, its response."""
    from lmx.commands import _face, _platform, _responses, _wire
    from lmx.core import processes

    _platform.start()
    found = _wire.checkpoint(options.checkpoint, member=options.task, cut=True)
    prompts = options.prompt or [""]
    texts = _face.generate(
        found,
        prompts,
        tokens=options.tokens,
        temperature=options.temperature,
        top_k=options.top_k or None,
        seed=options.seed,
    )
    if not processes.first():
        return 0
    between = "\n" if _responses.writes(found.config) else ""
    print("\n\n".join(f"{prompt}{between}{text}" for prompt, text in zip(prompts, texts, strict=True)))
    return 0
