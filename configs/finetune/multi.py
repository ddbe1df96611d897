"""Three tasks on one encoder: sentiment (SST-2), likeness (STS-B), names of diseases (NCBI-disease).

    lmx train --config finetune/multi --config.start=BERT --workdir runs/multi \
        --config.tasks.sst2.data.train=sst2/train.tsv --config.tasks.sst2.data.validation=sst2/dev.tsv \
        --config.tasks.stsb.data.train=stsb/en-train.csv --config.tasks.stsb.data.validation=stsb/en-dev.csv \
        --config.tasks.ncbi.data.train=ncbi_disease/train.tsv \
        --config.tasks.ncbi.data.validation=ncbi_disease/devel.tsv

About 18,000 examples, so that three epochs are some 1,700 steps.
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """Three epochs at 5e-5; at temperature 2 a smaller task comes more often than its size says."""
    c = inherit("finetune/multi_base")
    c.tasks.sst2 = ConfigDict(
        {"task": {"name": "sequence_classification"}, "data": {"columns": {"text": "sentence"}}}
    )
    c.tasks.stsb = ConfigDict(
        {
            "task": {"name": "sequence_regression", "standardize": True},
            "data": {"columns": {"text": 0, "text_pair": 1, "value": 2}},
            "score": "spearman",
        }
    )
    c.tasks.ncbi = ConfigDict(
        {"task": {"name": "token_classification", "stride": 16}, "data": {"format": "conll"}}
    )
    c.mix.temperature = 2.0
    return c
