"""What a model says of the examples of a task, and how good that is, wired: outputs, predictions, figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from jax.sharding import Mesh

from lmx import tokenizer as tokenizers_
from lmx.batches import sorted_batches
from lmx.commands import _build, _examples, _labels, _options, _responses, _scores
from lmx.core import log, plugin
from lmx.core.errors import UserError, did_you_mean
from lmx.core.examples import Encoded
from lmx.core.types import Metric, Model
from lmx.training import predict


class Judge:
    """A task's way from parameters to predictions and figures.

    config: a run's, whole; its `facts` are what the training split told. responses: None where the task's
    models write none.
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
        self._config, self._task, self._mesh = config, task, mesh
        self.responses = (
            _responses.Responses(config, task, text=text, model=model, mesh=mesh)
            if _responses.writes(config)
            else None
        )
        batch = config["batch"]
        self._shape = {
            "size": batch["size"],
            "per_token": task.PER_TOKEN,
            "filler": text.filler,
            "longest": batch["length"],
            "multiple": batch["multiple"],
        }
        self._metrics, self._lower = metrics_of(config, task)
        # What is reported must not depend on how far a batch was filled up, as question answering's loss may.
        loss = _build.loss(config, padding=False)
        how = _build.execution(config)
        self._with_loss = predict.build(model, task.OUTPUTS, loss, mesh=mesh, how=how)
        self._alone = predict.build(model, task.OUTPUTS, None, mesh=mesh, how=how)

    def tried(self) -> None:
        """Raise UserError for an option of the task that its predictions could not be made with."""
        options = _build.options_of(self._config, "decode")
        nothing: dict[str, Any] = {name: [] for name in self._task.OUTPUTS}
        self._task.decode([], Encoded([], []), nothing, facts=self._config["facts"], **options)

    def predictions(
        self,
        params: Any,
        split: _examples.Split,
        *,
        targets: bool = True,
        before: Callable[[], None] | None = None,
    ) -> tuple[list[dict[str, Any]], float]:
        """Return (a prediction of each example, the mean loss). targets: whether the examples have them; the
        loss is NaN without. before: called before each batch; what it raises ends the pass."""
        outputs, loss = self._outputs(params, split, targets, before)
        found: list[dict[str, Any]] = self._told("decode", split, outputs)
        return found, loss

    def examined(
        self, params: Any, split: _examples.Split
    ) -> tuple[list[dict[str, Any]], float, list[float] | None]:
        """Return (a prediction of each example, the mean loss, the loss of each), None where the task has no
        loss of one example."""
        outputs, loss = self._outputs(params, split, targets=True)
        each = self._told("losses", split, outputs) if hasattr(self._task, "losses") else None
        return self._told("decode", split, outputs), loss, each

    def _outputs(
        self,
        params: Any,
        split: _examples.Split,
        targets: bool,
        before: Callable[[], None] | None = None,
    ) -> tuple[dict[str, Any], float]:
        batches = sorted_batches(split.encoded.features, **self._shape)
        run = self._with_loss if targets else self._alone
        outputs, sums = predict.over(run, params, batches, mesh=self._mesh, before=before)
        return outputs, sums["loss"] / sums["weight"] if sums.get("weight") else float("nan")

    def _told(self, function: str, split: _examples.Split, outputs: Mapping[str, Any]) -> Any:
        """Return what one of the task's functions makes of outputs."""
        options = _build.options_of(self._config, function)
        of = getattr(self._task, function)
        return of(split.examples, split.encoded, outputs, facts=self._config["facts"], **options)

    def references(self, split: _examples.Split) -> list[dict[str, Any]]:
        """Return what the examples say themselves, one dict each."""
        found: list[dict[str, Any]] = self._task.references(split.examples, facts=self._config["facts"])
        return found

    def score(self, references: Sequence[Mapping[str, Any]]) -> tuple[str, int]:
        """Return the figure by which checkpoints are chosen, and 1 where the higher is the better, else -1.

        Errors: UserError where the config's is none of those that the references have, and where a metric
        cannot read them: before anything is compiled.
        """
        if self._config["score"] is None and not self._config["metrics"]:
            return self._task.SCORE, -1 if self._task.SCORE == "loss" else 1
        name = self._config["score"] or self._task.SCORE
        perfect = [_perfect(one) for one in references]
        self._check_figures(perfect, references)
        known = self.figures(perfect, references, 0.0)
        if name not in known:
            raise UserError(
                f"config.score={name!r}: no such figure{did_you_mean(name, known)}; there is: "
                f"{', '.join(known)}; config.metrics adds others"
            )
        return name, -1 if name == "loss" or name.partition("/")[0] in self._lower else 1

    def _check_figures(
        self, predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]
    ) -> None:
        """Raise UserError where two metrics give a figure of one name, and it is not the config's way of
        having one of the task's own with other options."""
        own = [name for name, _ in self._task.METRICS]
        added = self._config["metrics"]
        names = [*own, *(given if isinstance(given, str) else given["name"] for given in added)]
        whose: dict[str, int] = {}
        for index, metric in enumerate(self._metrics):
            for figure in _scores.figures([metric], predictions, references):
                first = whose.get(figure, index)
                whose[figure] = index
                if first != index and not (first < len(own) <= index and names[first] == names[index]):
                    raise UserError(
                        f"config.metrics: {names[first]!r} and {names[index]!r} both give the figure "
                        f"{figure!r}; leave one of them out"
                    )

    def figures(
        self, predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]], loss: float
    ) -> dict[str, float]:
        """Return the task's figures; `loss` is among them."""
        return {**_scores.figures(self._metrics, predictions, references), "loss": loss}

    def intervals(
        self,
        predictions: Sequence[Mapping[str, Any]],
        references: Sequence[Mapping[str, Any]],
    ) -> dict[str, tuple[float, float]]:
        """Return the 95 % interval of each figure, by the bootstrap over examples, with the run's seed."""
        return _scores.intervals(self._metrics, predictions, references, seed=self._config["seed"])

    def judged(self, params: Any, split: _examples.Split) -> Judged:
        """Return what the model says of a split whose examples have targets, responses written out, and how
        good that is."""
        predictions, loss, losses = self.examined(params, split)
        ids = [example.get("id") for example in split.examples]
        references = self.references(split)
        figures = self.figures(predictions, references, loss)
        intervals = self.intervals(predictions, references)
        if self.responses is None:
            return Judged(ids, predictions, references, losses, figures, intervals, {})
        texts, counts = self.responses.write(params, self.responses.chosen(split.examples))
        wanted = references[: len(texts)]
        rest: list[dict[str, Any]] = [{}] * (len(predictions) - len(texts))
        return Judged(
            ids,
            [{**one, **more} for one, more in zip(predictions, [*texts, *rest], strict=True)],
            references,
            losses,
            figures | self.responses.figures(texts, wanted),
            intervals | self.responses.intervals(texts, wanted),
            {"responses": self.responses.told(counts, wanted)},
        )

    def said(self, params: Any, split: _examples.Split) -> list[dict[str, Any]]:
        """Return a prediction of each example, which need have no targets; a response where the task is to
        write one."""
        if self.responses is None:
            return self.predictions(params, split, targets=False)[0]
        texts, _ = self.responses.write(params, split.examples)
        return [{name: one[name] for name in ("text", "ended")} for one in texts]


@dataclass(frozen=True)
class Judged:
    """What a model says of a split, and how good that is.

    ids: of the examples, None of one without. losses: of each example; None where the task has none. more:
    what belongs beside the figures, such as how responses were generated.
    """

    ids: Sequence[Any]
    predictions: Sequence[Mapping[str, Any]]
    references: Sequence[Mapping[str, Any]]
    losses: Sequence[float] | None
    figures: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    more: Mapping[str, Any]


def metrics_of(config: Mapping[str, Any], task: ModuleType) -> tuple[list[Metric], set[str]]:
    """Return the metrics of a task and those that the config adds, and which figures are better when lower.

    A metric of the config that is among the task's own, too, such as f1 with `labels`, takes the place of the
    own figures that have its names.

    Errors: UserError for a metric that is not there, an option that it has not, and a label that the training
    split has not.
    """
    found, lower = [], set()
    own = [{"name": name, **options} for name, options in task.METRICS]
    for given in [*own, *config.get("metrics", ())]:
        one = {"name": given} if isinstance(given, str) else given
        if not isinstance(one, Mapping) or not isinstance(one.get("name"), str):
            raise UserError(f"config.metrics: {given!r}; expected a name, or a dict of a name and options")
        module = plugin.find("lmx.metrics", one["name"], needs=("metric",))
        options = {name: value for name, value in one.items() if name != "name"}
        _check_labels(one["name"], options, config.get("facts", {}).get("names"))
        found.append(
            module.metric(**_options.known(module.metric, options, section="metrics", owner=one["name"]))
        )
        lower |= set(getattr(module, "LOWER", ()))
    return found, lower


def _check_labels(metric: str, options: Mapping[str, Any], names: Sequence[str] | None) -> None:
    """Raise UserError where a metric is to count labels that there are not; names: those of the data."""
    for field in ("positive", "labels") if names else ():
        value = options.get(field)
        for label in value if isinstance(value, list | tuple) else (() if value is None else (value,)):
            if label not in (names or ()):
                raise UserError(
                    f"config.metrics: {metric} got {field}={value!r}, but no label is {label!r}"
                    f"{did_you_mean(str(label), names or ())}; there is: {_labels.listed(names or ())}"
                )


def _perfect(reference: Mapping[str, Any]) -> dict[str, Any]:
    """Return the prediction that says what a reference says."""
    answers, texts = reference.get("answers") or [""], reference.get("references") or [""]
    told = {"answer": answers[0], "text": texts[0], "loss": 0.0, "tokens": 1}
    return {**told, "scores": {reference.get("label", ""): 1.0}, **reference}


def write(folder: Path, found: Judged) -> None:
    """Write predictions.jsonl and metrics.json into a run's folder, each whole or not at all."""
    three = zip(found.ids, found.predictions, found.references, strict=True)
    rows = [
        {**({} if name is None else {"id": name}), **said, "reference": wanted}
        for name, said, wanted in three
    ]
    text = "".join(json.dumps(log.plain(row), ensure_ascii=False) + "\n" for row in rows)
    log.write_whole(folder / "predictions.jsonl", text.encode())
    whole = {
        "examples": len(rows),
        **found.more,
        "figures": log.plain(found.figures),
        "intervals": {"level": 0.95, **log.plain(found.intervals)},
    }
    log.write_whole(folder / "metrics.json", (json.dumps(whole, indent=2) + "\n").encode())
