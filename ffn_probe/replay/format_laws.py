"""What a number format is expected to do to values: the laws that need no knowledge of them.

Integers with a step of absmax / 127 a scope make noise of step^2 / 12 a value (52.87 - 20 log10
of the crest factor, as an SQNR); e4m3 makes 31.5 dB on any density that is wide enough.
"""

from collections.abc import Callable

from torch import Tensor

from ffn_probe.formats import number_format

Law = Callable[[Tensor], Tensor]
"""The expected noise energy of each row of [rows, channels], which are one call's."""

_E4M3_DB = 31.5
_SCOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "tensor": lambda x: x.abs().amax(),
    "token": lambda x: x.abs().amax(1, keepdim=True),
    "channel": lambda x: x.abs().amax(0, keepdim=True),
}


def law_of(text: str) -> Law | None:
    """Return the law of "format:granularity", None where there is none.

    >>> import torch
    >>> round(float(law_of("int8:tensor")(torch.tensor([[127.0, 1.0]]))) * 12, 6)
    2.0
    """
    name, _, scope = text.partition(":")
    scope = scope.partition(":")[0] or "tensor"
    if name == "e4m3fn":
        return lambda x: x.square().sum(1) * 10 ** (-_E4M3_DB / 10)
    if name in {"int8", "int4"} and scope in _SCOPES:
        top = number_format(name).max

        def noise(x: Tensor) -> Tensor:
            step = _SCOPES[scope](x) / top
            return (step.square() / 12).expand_as(x).sum(1)

        return noise
    return None
