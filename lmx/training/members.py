"""Several models on one body, as one: what they share stands once, and a batch goes through one of them.

Source: Caruana 1997, "Multitask Learning", section 2 (one representation, a head for each task).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from lmx.core import tree
from lmx.core.errors import UserError
from lmx.core.types import TASK, Array, Batch, Model, Objective, Outputs, Params, Sums, Taps

HEADS = "heads"
"""Where the leaves lie that belong to one member alone: heads/NAME/..."""


class Members:
    """Several models on one body.

    model: all of them as one Model. Its parameters are those of the body, at their own paths, and of each
    member what is no part of it, under heads/NAME/. A batch says by its key `task/NAME` whose it is; that is
    a matter of its structure, so that jit compiles once for each member and shape.
    """

    def __init__(self, models: Mapping[str, Model], *, body: Sequence[str]) -> None:
        """Take models by name. body: the first parts of the paths of leaves that belong to the body.

        Raises UserError where two models have a leaf of the body in different shapes.
        """
        self._models, self._body = dict(models), tuple(body)
        self._paths: dict[str, dict[str, str]] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        users: dict[str, list[str]] = {}
        for name, one in self._models.items():
            leaves = tree.flatten(jax.eval_shape(one.init, jax.random.key(0)))
            self._paths[name] = {path: self._place(name, path) for path in leaves}
            for path, place in self._paths[name].items():
                if shapes.setdefault(place, leaves[path].shape) != leaves[path].shape:
                    raise UserError(
                        f"{name}: {path} is of shape {leaves[path].shape}, but of {shapes[place]} for "
                        f"{users[place][0]}; tasks on one body need the same model"
                    )
                users.setdefault(place, []).append(name)
        self._parts = {place: "+".join(names) for place, names in users.items()}
        self.model = Model(self._init, self._apply, self._trainable, self._fold)

    def part(self, path: str) -> str:
        """Return the name of the part that a leaf belongs to: those that move in the same batches are one."""
        return self._parts[path]

    def moves(self, batch: Batch, path: str) -> bool:
        """Tell whether a leaf takes part in what the batch's task computes, and so may move with it."""
        return self.whose(batch) in self._parts[path].split("+")

    def whose(self, batch: Batch) -> str:
        """Return the name of the member that a batch is for. Raises UserError where it does not say."""
        found = [key.removeprefix(TASK) for key in batch if key.startswith(TASK)]
        if len(found) != 1 or found[0] not in self._models:
            raise UserError(
                f"a batch of {', '.join(found) or 'no task'}; expected one key of "
                f"{', '.join(TASK + name for name in self._models)}"
            )
        return found[0]

    def take(self, params: Params, name: str) -> Params:
        """Return the parameters of one member, as its own model has them; nothing is copied."""
        flat = tree.flatten(params)
        return tree.unflatten({path: flat[place] for path, place in self._paths[name].items()})

    def join(self, members: Mapping[str, Params]) -> Params:
        """Return the parameters of all members as one; where they differ in the body, the first one's."""
        flat: dict[str, Any] = {}
        for name, params in members.items():
            for path, leaf in tree.flatten(params).items():
                flat.setdefault(self._place(name, path), leaf)
        return tree.unflatten(flat)

    def objective(self, objectives: Mapping[str, Objective], weights: Mapping[str, float]) -> Objective:
        """Return the objective that is the member's own for each batch, its sum of losses times the member's
        weight. The sums are NAME/loss and NAME/weight."""

        def evaluate(params: Params, batch: Batch, rng: Array | None) -> tuple[Array, Array, Sums]:
            name = self.whose(batch)
            loss, weight, _ = objectives[name](self.take(params, name), _plain(batch), rng)
            return weights[name] * loss, weight, {f"{name}/loss": loss, f"{name}/weight": weight}

        return evaluate

    def _place(self, name: str, path: str) -> str:
        return path if path.split("/")[0] in self._body else f"{HEADS}/{name}/{path}"

    def _init(self, key: Array) -> Params:
        return self.join({name: one.init(key) for name, one in self._models.items()})

    def _apply(
        self,
        params: Params,
        batch: Batch,
        *,
        rng: Array | None = None,
        train: bool = False,
        taps: Taps | None = None,
        cache: Any = None,
    ) -> Outputs:
        name = self.whose(batch)
        own, rows = self.take(params, name), _plain(batch)
        return self._models[name].apply(own, rows, rng=rng, train=train, taps=taps, cache=cache)

    def _trainable(self, params: Params) -> Params:
        return self.join({name: one.trainable(self.take(params, name)) for name, one in self._models.items()})

    def _fold(self, params: Params) -> Params:
        return self.join({name: one.fold(self.take(params, name)) for name, one in self._models.items()})


def _plain(batch: Batch) -> Batch:
    return {key: value for key, value in batch.items() if not key.startswith(TASK)}
