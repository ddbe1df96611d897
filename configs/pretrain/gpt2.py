"""GPT-2 in its smallest size, 124 million parameters, for accelerators and gigabytes of text.

    lmx train --config pretrain/gpt2 --config.data.path=FOLDER --workdir runs/gpt2

Half a million tokens a step on all devices together, as Brown et al. 2020, "Language Models are Few-Shot
Learners", table 2.1 has it for this size; batch.size and mesh say how they are spread. What a step costs on a
slice of TPUs tells `lmx compile --config pretrain/gpt2 --topology v5e:2x4`.
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """12 layers of width 768, 1,024 tokens, 50,257 pieces; blocks are compiled once and computed again."""
    c = inherit("base")
    c.model.positions = 1024
    c.model.layers, c.model.width, c.model.heads = 12, 768, 12
    c.tokenizer.size = 50_257
    c.batch.size, c.batch.length = 512, 1024  # 512 x 1,024 = 524,288 tokens
    c.execution.remat, c.execution.layers = "block", "scanned"
    c.optim.rate = 6e-4
    c.optim.warmup = "1%"
    c.total = "1e10 tokens"
    c.log, c.evaluate, c.save, c.sample = "10 steps", "2%", "2%", "10%"
    return c
