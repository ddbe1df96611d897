"""Token classification: a label for each token, such as the part of a name or a part of speech.

Source: Devlin et al. 2018, section 5.3.
"""

from __future__ import annotations

from lmx.core.hf_table import Entry, HeadTable
from lmx.core.types import Array, Batch, Model, Outputs, Params, Sums
from lmx.tasks import _heads

AXES = ((r"head/kernel", ("width", "label")), (r"head/bias", ("label",)))

_ENTRIES = (
    Entry("classifier.weight", ("head/kernel",), "transpose"),
    Entry("classifier.bias", ("head/bias",)),
)
_OPTIONS = (("labels", "num_labels"), ("dropout", "classifier_dropout"))

HF = {
    "gpt2": HeadTable("GPT2ForTokenClassification", _ENTRIES, options=_OPTIONS, fallback="hidden_dropout"),
    "bert": HeadTable("BertForTokenClassification", _ENTRIES, model={"pooler": False}, options=_OPTIONS),
}
"""Model -> the head's place in a Hugging Face folder."""


def attach(body: Model, config: _heads.Sized, *, labels: int = 2, dropout: float = 0.1) -> Model:
    """Return the body with `logits` (B, T, C): a dense layer over each hidden state, after dropout.

    labels: how many there are, C.
    """
    _heads.count("labels", labels, 2)
    _heads.probability("dropout", dropout)

    def head(params: Params, outputs: Outputs, batch: Batch, drop: _heads.Dropout) -> Outputs:
        return {"logits": _heads.dense(params, drop(outputs["hidden"]))}

    shapes = _heads.dense_shapes(config.width, labels)
    return _heads.attach(body, shapes, config.init_range, dropout, head)


def loss(outputs: Outputs, batch: Batch) -> tuple[Array, Array, Sums]:
    """Cross-entropy in nats over `labels` (B, T): (its sum, the count of labels, metric sums).

    Labels of -100 (special tokens, later pieces of a word, padding) count nothing.
    """
    total, count = _heads.negative_log(outputs["logits"], batch["labels"])
    return total, count, {"loss": total, "labels": count}
