"""Responses to prompts of your own: a table with the columns `prompt` and `response`, and any decoder.

    lmx train --config finetune/completion --config.start=GPT2 --workdir runs/completion \
        --config.data.train=train.jsonl --config.data.validation=10%

A space stands between the two; --config.task.template='Q: {prompt} A: {response}' is one of many other ways.
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """Three epochs at 5e-5, batches of 32, as suit GPT-2's 124 million parameters."""
    c = inherit("finetune/base")
    c.task = ConfigDict({"name": "instruction", "template": "plain"})
    return c
