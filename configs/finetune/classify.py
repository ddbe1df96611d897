"""A classifier of sentences, or of pairs of them, from any Hugging Face folder.

    lmx train --config finetune/classify --config.start=FOLDER --workdir runs/classify \
        --config.data.train=train.tsv --config.data.validation=10%
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """The base as it stands: a table with the columns `text` and `label`."""
    return inherit("finetune/base")
