"""Responses that a model writes to the examples of a task, and how good their texts are, wired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from jax.sharding import Mesh

from lmx import tokenizer as tokenizers_
from lmx.commands import _build, _hf, _scores, _wire
from lmx.core import log, plugin, rng
from lmx.core import mesh as mesh_
from lmx.core.examples import Example
from lmx.core.types import Checkpoint, Metric, Model
from lmx.generation import greedy, sample
from lmx.metrics import bleu

Examples = Sequence[Mapping[str, Any]]


def writes(config: Mapping[str, Any]) -> bool:
    """Tell whether a config is one of a task whose model writes responses, and knows its training split."""
    return "facts" in config and hasattr(_build.task(config), "writing")


class Responses:
    """A task's way from parameters to texts.

    config: a run's, whole. Errors: UserError for options of writing that make no sense, and where a metric's
    library is missing.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        task: ModuleType,
        *,
        text: tokenizers_.Tokenizer,
        model: Model,
        mesh: Mesh,
    ) -> None:
        self._config, self._task, self._text = config, task, text
        self._model, self._mesh = model, mesh
        self.how = task.writing(**_build.options_of(config, "writing"))
        self._scored = task.text_metrics(facts=config["facts"], **_build.options_of(config, "text_metrics"))
        self._metrics: list[Metric] = [
            plugin.find("lmx.metrics", name).metric(**options) for name, options in self._scored
        ]
        sizes = _hf.sections(config)["model"]
        self._vocab, self._positions = sizes["vocab_size"], sizes["positions"]

    def chosen(self, examples: Sequence[Example]) -> Sequence[Example]:
        """Return the examples that `limit` allows."""
        return examples[: self.how.limit]

    def prompts(self, examples: Sequence[Example], new_tokens: int) -> tuple[list[list[int]], dict[str, int]]:
        """Return (the ids of each prompt, what was cut, by name).

        A prompt is at most as long as rows were in training, and leaves room for the new tokens.
        Errors: UserError where there is no room, or the tokenizer has no end symbol.
        """
        counts: dict[str, int] = {}
        options = _build.options_of(self._config, "prompts") | {"new_tokens": new_tokens}
        ids = self._task.prompts(
            examples,
            self._text,
            facts=self._config["facts"],
            length=min(self._positions, self._config["batch"]["length"] + new_tokens),
            counts=counts,
            **options,
        )
        return ids, {name: count for name, count in counts.items() if count}

    def check(self, examples: Sequence[Example], split: str) -> None:
        """Say what the prompts of a split will lose. Errors: UserError as in `prompts`."""
        _say_cut(split, self.prompts(self.chosen(examples), self.how.new_tokens)[1])

    def write(
        self, params: Any, examples: Sequence[Example], *, how: Any = None
    ) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """Return (`text`, `ended` and `prompt`, as the model read it, of a response to each example; what was
        cut of the prompts). how: in place of the config's, as the task's `writing` gives it."""
        how = how or self.how
        ids, counts = self.prompts(examples, how.new_tokens)
        given = {
            "tokens": how.new_tokens,
            "eos_id": self._text.eos_id,
            "banned": self._banned(),
            "size": mesh_.filled(min(self._config["batch"]["size"], len(ids)), self._mesh),
            "mesh": self._mesh,
        }
        params = mesh_.place(params, self._mesh)
        key = rng.stream_key(self._config["seed"], 0, "responses")
        if how.temperature == 0:
            new = greedy.generate(self._model, params, ids, key, **given)
        else:
            drawn = {"temperature": how.temperature, "top_k": how.top_k}
            new = sample.generate(self._model, params, ids, key, **drawn, **given)
        found = self._task.decode_texts(new, self._text, examples, new_tokens=how.new_tokens)
        seen = [{**one, "prompt": self._text.decode(row)} for one, row in zip(found, ids, strict=True)]
        return seen, counts

    def _banned(self) -> list[int]:
        """Return the ids that stand for no text: what fills rows up, other special ones, and those that the
        model has beyond the tokenizer's; never the end symbol."""
        text = self._text
        special = {text.pad_id, text.bos_id, text.unk_id, text.cls_id, text.sep_id, text.mask_id}
        beyond = range(text.vocab_size, self._vocab)
        return sorted({i for i in special if i is not None} - {text.eos_id}) + list(beyond)

    def figures(self, predictions: Examples, references: Examples) -> dict[str, float]:
        """Return the figures of the texts."""
        return _scores.figures(self._metrics, predictions, references)

    def intervals(self, predictions: Examples, references: Examples) -> dict[str, tuple[float, float]]:
        """Return the 95 % interval of each figure, with the run's seed."""
        return _scores.intervals(self._metrics, predictions, references, seed=self._config["seed"])

    def told(self, counts: Mapping[str, int], references: Examples) -> dict[str, Any]:
        """Return what belongs beside the figures: how the texts were made, what was cut of the prompts, and
        the signature of BLEU."""
        several = {len(one["references"]) for one in references}
        many = several.pop() if len(several) == 1 else None
        scored = dict(self._scored)
        signed = {"signature": bleu.signature(many, **scored["bleu"])} if "bleu" in scored else {}
        how = {name: value for name, value in vars(self.how).items() if name != "limit"}
        return {"texts": len(references), **how, **counts, **signed}


def answers(
    found: Checkpoint,
    prompts: Sequence[str],
    *,
    tokens: int,
    temperature: float,
    top_k: int | None,
    seed: int,
) -> list[str]:
    """Return the response of a run's model to each prompt, in the run's template."""
    task, config = _build.task(found.config), {**found.config, "seed": seed}
    mesh = mesh_.under(found.params) or mesh_.make(1)
    made = Responses(config, task, text=_wire.tokenizer(found), model=_build.model(found.config), mesh=mesh)
    how = task.writing(new_tokens=tokens, temperature=temperature, top_k=top_k if temperature else None)
    examples = [task.read({"prompt": prompt}) for prompt in prompts]
    texts, counts = made.write(found.params, examples, how=how)
    _say_cut("prompts", counts)
    return [one["text"] for one in texts]


def _say_cut(what: str, counts: Mapping[str, int]) -> None:
    if counts:
        told = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        log.say(f"{what}: when responses are written, {told}")
