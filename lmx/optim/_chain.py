"""What every optimizer of a run has around it: clipping, groups, L1 and L2, a scale from outside, an average.

Source: Parikh and Boyd 2014, "Proximal Algorithms", section 6.5.2 (soft threshold).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lmx.core import layers, tree
from lmx.core.errors import UserError
from lmx.core.types import Array, Params
from lmx.optim import _options, _parts, ema, schedules
from lmx.optim.optimizers import ELEMENTWISE, OPTIMIZERS, decayed
from lmx.optim.schedules import SCHEDULES, Schedule

Rules = Sequence[tuple[str, float]]


class ChainState(NamedTuple):
    """The state of an optimizer that `build` made; a checkpoint holds all of it.

    made: int32, updates so far. scale: f32, a factor of the learning rate that the host sets (`rescaled`).
    inner: the named optimizer's own state. average: the averaged parameters, None where none was asked for.
    Of an optimizer with parts the last two are dicts, {part: its own}.
    """

    made: Array
    scale: Array
    inner: Any
    average: ema.Average | dict[str, ema.Average] | None


def factors(params: Params, rules: Rules, *, some: bool = False) -> dict[str, float]:
    """Return {path: factor of the learning rate}: that of the first rule whose pattern matches, or else 1.

    some: these are not all the leaves there are. Raises UserError, unless they are some, for a rule that
    decides about no leaf: it would be silently dead.
    """
    chosen = _chosen(params, rules)
    found = {path: 1.0 if hit is None else float(rules[hit][1]) for path, hit in chosen.items()}
    if some:
        return found
    for k, (pattern, _) in enumerate(rules):
        if k not in chosen.values():
            paths = [layers.first(path) for path in found]
            hit = any(re.fullmatch(pattern, path) for path in paths)
            why = "only what rules before it match" if hit else "no trainable parameter"
            raise UserError(
                f"optim.scales[{k}]: {pattern!r} matches {why}; patterns are for whole paths such as "
                f"{next(iter(paths), 'none')!r}"
            )
    if rules and not any(found.values()):
        raise UserError("optim.scales: every factor is 0, so that nothing would be trained")
    return found


def _chosen(params: Params, rules: Rules) -> dict[str, int | None]:
    """Return {path: the number of the first rule whose pattern matches}; a stack of layers is one of them."""
    paths = {path: layers.first(path) for path in tree.flatten(params)}
    return {
        path: next((k for k, (pattern, _) in enumerate(rules) if re.fullmatch(pattern, own)), None)
        for path, own in paths.items()
    }


def stacks(params: Params, name: str, scales: Rules) -> bool:
    """Tell whether an optimizer of `build` gives the same moves where the layers of these parameters are one.

    It does where it moves each number by itself and no rule tells one layer from another.
    """
    return name in ELEMENTWISE and layers.alike(_chosen(params, scales))


def build(
    name: str,
    learning_rate: Schedule,
    *,
    clip: float | None = None,
    l1: float = 0.0,
    l2: float = 0.0,
    scales: Rules = (),
    average: float | None = None,
    parts: _parts.Part | None = None,
    **options: Any,
) -> optax.GradientTransformation:
    """Return the named optimizer with what is common to all; its state is a ChainState.

    name: one of OPTIMIZERS, or the dotted name of a function of that type. In this order:
    scales: (pattern, factor) pairs; a leaf's rate, decay and L1 are multiplied by the factor of the first
    pattern that matches its whole path. Factor 0 freezes: no gradient, no state, no decay.
    clip: the gradient's largest global norm. l2: l2 x parameter is added to the gradient, as the penalty
    (l2 / 2) x sum of squares does (torch's weight_decay of SGD and Adam). Then the optimizer's own update.
    l1: each number then goes towards 0 by rate x l1 and stays there (proximal step: exact zeros). L1 and L2
    are for matrices only, as decay is.
    average: the decay of a moving average of the parameters (`ema`, `averaged`).
    parts: path -> the name of the part of the parameters that a leaf belongs to. An update may then come
    without the leaves of some parts: nothing of them changes, and what an optimizer counts it counts for each
    part. Learning rates go by the count of all updates.
    Moments and averages are f32, whatever the parameters are. None leaves an option as it is by itself.

    Raises UserError for an unknown name or option and for values that make no sense.
    """
    chosen = {key: value for key, value in options.items() if value is not None}
    common: dict[str, Any] = {"clip": clip, "l1": l1, "l2": l2, "scales": scales, "average": average}
    function = _options.find("optimizer", name, OPTIMIZERS)
    _options.bind(name, function, list(chosen), common=COMMON)
    known = {**common, **(chosen if name in OPTIMIZERS else {})}
    _options.in_range({key: value for key, value in known.items() if value is not None})
    core = function(learning_rate, **chosen)
    if not isinstance(core, optax.GradientTransformation):
        kind = type(core).__name__
        raise UserError(f"optim.name={name!r} gave a {kind}; expected an optax.GradientTransformation")
    around = _Around(core, learning_rate, **common, parts=parts)
    return optax.GradientTransformation(around.init, around.update)


@dataclass(frozen=True)
class _Around:
    """An optimizer with what `build` puts around it."""

    core: optax.GradientTransformation
    rate: Schedule
    clip: float | None
    l1: float
    l2: float
    scales: Rules
    average: float | None
    parts: _parts.Part | None

    def init(self, params: Params) -> ChainState:
        moving = _moving(params, factors(params, self.scales))
        with jax.numpy_dtype_promotion("standard"):
            inner = self.core.init(moving)
        average: Any = None if self.average is None else ema.start(moving)
        if self.parts is not None:
            groups = _parts.groups(moving, self.parts)
            inner = {part: _parts.only(inner, paths) for part, paths in groups.items()}
            if average is not None:
                average = {part: _parts.only(average, paths) for part, paths in groups.items()}
        return ChainState(jnp.zeros((), jnp.int32), jnp.ones((), jnp.float32), inner, average)

    def update(self, updates: Params, state: ChainState, params: Params | None = None) -> Any:
        assert params is not None, "these optimizers need the parameters"
        factor = factors(params, self.scales, some=self.parts is not None)
        now, gradients = _moving(params, factor), _moving(updates, factor)
        # optax raises a Python float to an int32 power, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            if self.clip is not None and now:
                gradients, _ = optax.clip_by_global_norm(self.clip).update(gradients, optax.EmptyState())
            if self.l2:
                gradients = jax.tree.map(
                    lambda on, g, p: g + self.l2 * p if on else g, decayed(now), gradients, now
                )
            if self.parts is None:
                moves, inner = self.core.update(gradients, state.inner, now)
            else:
                moves, inner = _parts.update(self.core, self.parts, gradients, state.inner, now, state.made)
            moves = tree.map_named(lambda path, x: x * state.scale * factor[path], moves)
            if self.l1:
                moves = _proximal(moves, now, self.rate(state.made) * state.scale * self.l1, factor)
            average = self._averaged(state.average, jax.tree.map(jnp.add, now, moves))
        return _whole(moves, params), ChainState(state.made + 1, state.scale, inner, average)

    def _averaged(self, average: Any, reached: Params) -> Any:
        """Return the averages moved towards where the parameters are now."""
        if self.average is None:
            return None
        if self.parts is None:
            return ema.update(average, reached, decay=self.average)
        after = dict(average)
        for part, paths in _parts.groups(reached, self.parts).items():
            after[part] = ema.update(average[part], _parts.only(reached, paths), decay=self.average)
        return after


def _moving(leaves: Params, factor: Mapping[str, float]) -> Params:
    """Return, in f32, the leaves whose factor is not 0."""
    chosen, _ = tree.split(leaves, tree.map_named(lambda path, _: factor[path] != 0, leaves))
    return jax.tree.map(lambda x: x.astype(jnp.float32), chosen)


def _whole(moves: Params, params: Params) -> Params:
    """Return the moves in the types of the parameters, with zeros for the leaves that stay."""
    flat = tree.flatten(moves)
    return tree.map_named(
        lambda path, leaf: flat[path].astype(leaf.dtype) if path in flat else jnp.zeros_like(leaf), params
    )


def _proximal(moves: Params, params: Params, rate: Array, factor: Mapping[str, float]) -> Params:
    """Return the moves that end at the soft threshold of where the given ones end."""

    def towards_zero(path: str, move: Array, leaf: Array) -> Array:
        to = leaf + move
        return jnp.sign(to) * jnp.maximum(jnp.abs(to) - rate * factor[path], 0.0) - leaf

    where = tree.flatten(params)
    on = tree.flatten(decayed(params))
    return tree.map_named(lambda path, x: towards_zero(path, x, where[path]) if on[path] else x, moves)


def rescaled(state: ChainState, scale: float) -> ChainState:
    """Return the state with another factor of the learning rate, counted from the schedule's own.

    Only the value changes, so that the jitted step is not compiled again, and a checkpoint holds it.
    """
    if not 0 <= scale < float("inf"):
        raise UserError(f"the scale of the learning rate is {scale!r}; expected 0 or more")
    return state._replace(scale=jax.device_put(jnp.float32(scale), state.scale.sharding))


def averaged(state: ChainState, params: Params) -> Params:
    """Return the parameters with the averages in the places of those that move.

    params: all parameters, frozen ones too. Raises UserError where no average was asked for.
    """
    if state.average is None:
        raise UserError("there is no average of the parameters; set optim.average, such as 0.999")
    averages = state.average.values() if isinstance(state.average, dict) else (state.average,)
    found = {path: leaf for one in averages for path, leaf in tree.flatten(one.params).items()}
    return tree.map_named(lambda path, x: found[path].astype(x.dtype) if path in found else x, params)


def exchanged(state: ChainState, params: Params) -> tuple[Params, ChainState]:
    """Return (the averages in the places of those that move, the state with these in the averages' places).

    Done twice it is as before: a checkpoint holds the average as its parameters, and loses nothing.
    """
    own = tree.flatten(params)

    def back(average: ema.Average) -> ema.Average:
        held = tree.map_named(lambda path, _: own[path].astype(jnp.float32), average.params)
        return average._replace(params=held)

    held: Any = state.average
    swapped: Any = {part: back(one) for part, one in held.items()} if isinstance(held, dict) else back(held)
    return averaged(state, params), state._replace(average=swapped)


COMMON = tuple(inspect.signature(build).parameters)[2:-2]
"""The options that every optimizer has; `parts` follows from what is trained."""


def _divided(name: str, schedule: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (the options of the schedule, those of the optimizer and of `build`); None counts as not given.

    An option goes to whom it is an option of. One of another schedule goes to the schedule, which refuses it;
    one of nobody to the optimizer, which refuses it or, having **options, takes it.
    """
    every = [_options.find("schedule", schedule, SCHEDULES), *SCHEDULES.values()]
    shapes = [_options.options(shape, schedules.SUPPLIED)[0] for shape in every]
    own, _ = _options.options(_options.find("optimizer", name, OPTIMIZERS), ())
    shaping, rest = {}, {}
    for key, value in values.items():
        if value is None:
            continue
        if key in shapes[0] or (key not in own and any(key in shape for shape in shapes)):
            shaping[key] = value
        if key in own or key not in shaping:
            rest[key] = value
    return shaping, rest


def check(name: str, *, schedule: str, **values: Any) -> None:
    """Raise UserError for an unknown optimizer, schedule or option, or for a value that makes no sense.

    values: `rate`, `warmup`, and the options of both and of `build`; None leaves one as it is by itself, and
    durations may be texts in any unit.
    """
    if values.get("rate", 0) is None:
        raise UserError(f"optim.rate=None; expected {_options.RANGES['rate'][1]}")
    shape = _options.find("schedule", schedule, SCHEDULES)
    function = _options.find("optimizer", name, OPTIMIZERS)
    shaping, own = _divided(name, schedule, values)
    given = [key for key in own if key not in ("rate", "warmup")]
    _options.bind(name, function, given, common=COMMON)
    _options.bind(f"the schedule {schedule}", shape, list(shaping), supplied=schedules.SUPPLIED)
    known = own if name in OPTIMIZERS else {k: v for k, v in own.items() if k in ("rate", "warmup", *COMMON)}
    _options.in_range({**known, **(shaping if schedule in SCHEDULES else {})}, texts=True)


def make(
    name: str,
    *,
    rate: float,
    schedule: str,
    warmup: int,
    total: int,
    parts: _parts.Part | None = None,
    **values: Any,
) -> tuple[Schedule, optax.GradientTransformation]:
    """Return (step -> learning rate, the optimizer) from the fields of a config's `optim`; parts: of `build`.

    Durations (`warmup`, `total`, and the other DURATIONS) are in steps. Raises UserError as `check` does.

    >>> at, optimizer = make("sgd", rate=0.1, schedule="linear", warmup=0, total=10, momentum=0.9, end=0.5)
    >>> round(float(at(jnp.int32(5))), 4)
    0.075
    """
    check(name, schedule=schedule, rate=rate, warmup=warmup, **values)
    shaping, own = _divided(name, schedule, values)
    at = schedules.schedule(schedule, rate=rate, warmup=warmup, total=total, **shaping)
    return at, build(name, at, parts=parts, **own)
