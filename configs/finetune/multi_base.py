"""What every run on several tasks starts from; a derived config names its tasks and its differences.

All is as in finetune/base, but for `tasks`, which stands in the place of `task`, `data`, `metrics` and
`score`: for each task by its name those that it needs, and `weight`, a factor of its loss (1.0). An epoch is
as many steps as all examples of all tasks together take.
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """No task yet: `c.tasks.NAME = ConfigDict({"task": {"name": ...}, "data": {"train": ...}})`."""
    c = inherit("finetune/base")
    del c.task, c.data, c.metrics, c.score
    c.tasks = ConfigDict()
    # A task of n rows (each window of a long text is one) has a share of the steps like n^(1 / temperature):
    # 1.0 is proportional.
    c.mix = ConfigDict({"temperature": 1.0})
    return c
