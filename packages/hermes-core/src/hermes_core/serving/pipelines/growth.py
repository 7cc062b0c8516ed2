"""What stages add to the context of a request."""

from typing import Final

from hermes_core.serving.pipelines.control import Growth
from hermes_core.serving.pipelines.flow import Flow, absorb_answer, extend
from hermes_core.serving.pipelines.luck import Draw, mix, unit
from hermes_core.serving.request import Request

_DOCUMENTS: Final = -2
"""Documents are segments from this number downwards, as long as there are fewer than 2^39 of them."""
_BITS: Final = 1 << 53


def result(tokens: Draw) -> Growth:
    """Return what a tool adds: the call that was the last answer, and its result, a text of its own."""

    def grow(request: Request, flow: Flow, luck: float) -> None:
        absorb_answer(request, flow)
        extend(request, flow, flow.new_segment(), tokens(luck))

    return grow


def text_of(tokens: int) -> Growth:
    """Return what adds a text that nobody else has, always as long."""

    def grow(request: Request, flow: Flow, luck: float) -> None:  # noqa: ARG001 - the same for all
        extend(request, flow, flow.new_segment(), tokens)

    return grow


def texts(count: Draw, tokens: Draw, which: Draw | None = None) -> Growth:
    """Return what a retrieval adds: `count` texts of `tokens` each.

    `which` draws the number of each document, so that popular ones are found in the prefix cache; a document has the
    same length whenever it is drawn. None stands for texts that nobody else has.
    """

    def grow(request: Request, flow: Flow, luck: float) -> None:
        seed = int(luck * _BITS)
        if which is None:
            # Nobody else has them: they need not be told apart.
            total = sum([tokens(unit(seed, number)) for number in range(count(luck))])
            extend(request, flow, flow.new_segment(), total)
            return
        for number in range(count(luck)):
            document = which(unit(seed, number))
            extend(request, flow, _DOCUMENTS - document, tokens(unit(mix(0, document), 0)))

    return grow
