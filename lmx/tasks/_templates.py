"""How a prompt and its response become one row of ids, and what gives way where they are too long.

Each text is encoded by itself, and ids are joined, never texts: so the ids of a prompt are the same in
training and in generation, whatever follows. The spaces at the end of a piece belong to the text that follows
it, as in GPT-2's vocabulary: of "{prompt} = {response}" the ids are those of "Hallo", " =" and " Hello".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from lmx.core.errors import UserError, did_you_mean

DIALOGUE = "dialogue"
PATTERNS = {
    "plain": "{prompt} {response}",
    "summary": "{prompt}\nTL;DR: {response}",
    "translation": "{prompt} = {response}",
}
"""Of summaries and translations: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners",
sections 3.6 and 3.7."""

NAMES = ("plain", DIALOGUE, "summary", "translation")
SIDES = ("left", "right")
_KEEPS_THE_START = ("summary", "translation")
_AT_A_TIME = 1024  # texts that the tokenizer holds at once

Side = Literal["left", "right"]


class Writer(Protocol):
    """What must be known of a tokenizer to train and to read answers; `lmx.tokenizer.Tokenizer` is one."""

    @property
    def eos_id(self) -> int | None: ...

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text; a special token spelled out in it is plain text."""
        ...

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """Return the text of the ids."""
        ...


@dataclass(frozen=True)
class Form:
    """How one side speaks. before: what stands before its text. lead: spaces, encoded with the text. after:
    what stands behind it, None for the end symbol."""

    before: str
    lead: str
    after: str | None


@dataclass(frozen=True)
class Template:
    """How the asking and the answering side speak, in turns of which the last one answers. side: the end at
    which a prompt that is too long gives way."""

    asking: Form
    answering: Form
    dialogue: bool
    side: Side


@dataclass(frozen=True)
class Turn:
    """The ids of a turn: what stands before its text, the text, what stands behind it."""

    before: list[int]
    text: list[int]
    after: list[int]

    def __len__(self) -> int:
        return len(self.before) + len(self.text) + len(self.after)


@dataclass(frozen=True)
class Window:
    """Turns in one row.

    ids, trained: the ids, and whether each is one of an answer. first: the index of the oldest turn kept.
    prompt_cut, response_cut: whether the text of the turn before the last, or that of the last, was cut.
    """

    ids: list[int]
    trained: list[bool]
    first: int
    prompt_cut: bool
    response_cut: bool


def make(name: Any, *, speakers: Any, side: Any) -> Template:
    """Return a template of a name, or of the user's own pattern.

    speakers: what stands before the turns of the asking and of the answering side, None for nothing.
    side: None for the template's own. Errors: UserError for what is neither, and speakers without a dialogue.
    """
    if side is not None and side not in SIDES:
        raise UserError(f"task.cut={side!r}{did_you_mean(str(side), SIDES)}; expected left or right")
    side = side or ("right" if name in _KEEPS_THE_START else "left")
    if name == DIALOGUE:
        marks = ("", "") if speakers is None else _marks(speakers)
        asking, answering = (Form(*_parted(mark), after=None) for mark in marks)
        return Template(asking, answering, True, side)
    if speakers is not None:
        raise UserError(f"task.speakers is for dialogues, and task.template={name!r}; leave it out")
    pattern = PATTERNS.get(name, name) if isinstance(name, str) else ""
    head, _, rest = pattern.partition("{prompt}")
    if not rest.endswith("{response}") or pattern.count("{response}") > 1 or "{prompt}" in rest:
        raise UserError(
            f"task.template={name!r}{did_you_mean(str(name), NAMES)}; expected {', '.join(NAMES)}, or a "
            "pattern that ends with the response, such as '{prompt} = {response}'"
        )
    before, lead = _parted(head)
    after, space = _parted(rest.removesuffix("{response}"))
    return Template(Form(before, lead, after), Form("", space, None), False, side)


def _marks(speakers: Any) -> tuple[str, str]:
    if not isinstance(speakers, (list, tuple)) or [type(one) for one in speakers] != [str, str]:
        raise UserError(f"task.speakers={speakers!r}; expected two texts, such as ('User: ', 'Assistant: ')")
    return speakers[0], speakers[1]


def _parted(piece: str) -> tuple[str, str]:
    """Return (a piece without the spaces at its end, those spaces)."""
    kept = piece.rstrip(" ")
    return kept, piece[len(kept) :]


def end(tokenizer: Writer) -> int:
    """Return the end symbol. Errors: UserError where the tokenizer has none."""
    found: int | None = getattr(tokenizer, "eos_id", None)
    if found is None:
        raise UserError(
            "the tokenizer has no end symbol (eos_token), so no response would end; use one that has"
        )
    return found


def encoded(
    tokenizer: Writer, template: Template, dialogues: Sequence[Sequence[str | None]]
) -> Iterator[list[Turn]]:
    """Yield the turns of each dialogue, the last of which answers; its text may be None, to be generated."""
    stop = end(tokenizer)
    fixed = {}
    for form in (template.asking, template.answering):
        before, after = tokenizer.encode_many([form.before, form.after or ""])
        fixed[form] = (before, [stop] if form.after is None else after)
    for first in range(0, len(dialogues), _AT_A_TIME):
        some = [_spoken(template, turns) for turns in dialogues[first : first + _AT_A_TIME]]
        texts = [form.lead + text for turns in some for form, text in turns if text is not None]
        ids = iter(tokenizer.encode_many(texts))
        for turns in some:
            yield [
                Turn(fixed[form][0], [], [])
                if text is None
                else Turn(fixed[form][0], next(ids), fixed[form][1])
                for form, text in turns
            ]


def _spoken(template: Template, texts: Sequence[str | None]) -> list[tuple[Form, str | None]]:
    """Return each turn with how it is spoken: the last one answers, the one before asks, and so on."""
    last = len(texts) - 1
    return [
        (template.answering if (last - i) % 2 == 0 else template.asking, text) for i, text in enumerate(texts)
    ]


def newest(
    turns: Sequence[Turn], room: int, *, history: int | None, side: Side, every: bool = False
) -> Window:
    """Return the newest of the turns in at most `room` ids; the last one answers, and its ids come last.

    Old turns give way first, whole; then the text before the answer, on its side; it keeps one id. Only an
    answer that is too long beside that is cut, at its end, and then has no end symbol.
    history: the most turns before the answer, None for all. every: earlier turns of the answer's speaker are
    trained, too.
    Errors: UserError, without what is to be done, where the template leaves no room.
    """
    *older, last = turns
    asked = older[-1]
    least = len(last.before) + len(asked.before) + 1 + len(asked.after)
    whole = [*last.text, *last.after]
    if room < least + bool(whole):
        raise UserError(f"a template of {least - 1} ids leaves no room for prompt and response")
    answer = whole[: room - least]
    space = room - len(last.before) - len(answer)
    kept: list[tuple[int, Turn]] = []
    most = len(older) if history is None else history
    for index in range(len(older) - 1, max(-1, len(older) - 1 - most), -1):
        if len(older[index]) > space:
            break
        kept.append((index, older[index]))
        space -= len(older[index])
    cut = not kept
    if cut:
        few = space - len(asked.before) - len(asked.after)
        text = asked.text[-few:] if side == "left" else asked.text[:few]
        kept = [(len(older) - 1, replace(asked, text=text))]
    ids: list[int] = []
    trained: list[bool] = []
    first = kept[-1][0]
    for index, turn in [*reversed(kept), (len(older), Turn(last.before, answer, []))]:
        ids += [*turn.before, *turn.text, *turn.after]
        # A turn that has nothing before it answers nothing here.
        told = index == len(older) or (every and index > first and (len(older) - index) % 2 == 0)
        trained += [False] * len(turn.before) + [told] * (len(turn) - len(turn.before))
    return Window(ids, trained, first, cut, len(answer) < len(whole))


def windows(
    turns: Sequence[Turn], room: int, *, history: int | None, side: Side, every: bool
) -> Iterator[Window]:
    """Yield the newest turns; with `every`, as many windows as it takes to train every answer in just one.

    The rest: as in `newest`. The newest window comes first. An answer that has nothing before it in one is
    the last of the next.
    """
    last = len(turns) - 1
    while last > 0:
        found = newest(turns[: last + 1], room, history=history, side=side, every=every)
        yield found
        last = found.first - (last - found.first) % 2 if every else 0
