"""GPT-2 large, 774 million parameters, for accelerators: as pretrain/gpt2 but for its size.

    lmx train --config pretrain/gpt2_large --config.data.path=FOLDER --workdir runs/gpt2_large

The state is cut over 8 devices (mesh.fsdp); rate and batch are those of Brown et al. 2020, table 2.1, for the
size next to it. docs/scaling.md tells what a step costs on slices of TPUs.
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """36 layers of width 1280, 20 heads."""
    c = inherit("pretrain/gpt2")
    c.model.layers, c.model.width, c.model.heads = 36, 1280, 20
    c.mesh.fsdp = 8
    c.optim.rate = 2.5e-4
    c.batch.size = 512  # 512 x 1,024 tokens
    return c
