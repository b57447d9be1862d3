"""A Swap is checked when it is made, says itself in one line, and can be stored."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ffn_probe.errors import FfnProbeError, SwapError, UnknownName
from ffn_probe.formats import FormatError
from ffn_probe.swaps import Change, Left, Swap, Swapped, swap
from sample_runs import tiny_lm
from tests.swaps.states import batch

TEXTS = [
    ("norm=rmsnorm,activation=silu", "norm=rmsnorm, activation=silu (naive)"),
    ("norm=rmsnorm:eps=1e-6, norms=all, how=exact", "norm=rmsnorm:eps=1e-6, norms=all (exact)"),
    ("activation=swish_beta:beta=1.5,how=matched", "activation=swish_beta:beta=1.5 (matched)"),
    ("gating=gpt_oss_swiglu:limit=7", "gating=gpt_oss_swiglu:limit=7 (naive)"),
    ("dtype=bf16,blocks=0+-1", "dtype=bfloat16, blocks=0+-1 (naive)"),
    (
        "quantize=hidden:int8:token,quantize=w_down:int4:group=32,blocks=layers.1.*",
        "quantize=hidden:int8:token, quantize=w_down:int4:group=32, blocks=layers.1.* (naive)",
    ),
    ("quantize=hidden:mxfp4:ceil", "quantize=hidden:mxfp4:block:ceil (naive)"),
]


@pytest.mark.parametrize(("given", "said"), TEXTS)
def test_a_swap_of_the_command_line_says_itself(given: str, said: str) -> None:
    assert Swap.parse(given).text == said


@pytest.mark.parametrize("given", [text for text, _ in TEXTS])
def test_a_swap_comes_back_from_json_and_from_its_own_words(given: str) -> None:
    wanted = Swap.parse(given)
    assert Swap.from_dict(json.loads(json.dumps(wanted.to_dict()))) == wanted
    parts, _, how = wanted.text.removesuffix(")").rpartition(" (")
    assert Swap.parse(f"{parts}, how={how}") == wanted


def test_the_ways_to_write_a_swap_are_one() -> None:
    one = Swap.of(norm="rmsnorm", dtype=torch.bfloat16, blocks=-1, quantize={"hidden": "int8"})
    other = Swap.parse("norm=rmsnorm,dtype=bf16,blocks=-1,quantize=hidden:int8:tensor")
    assert one == other
    assert one.params == {"norm": {}}
    assert Swap.parse("activation=swish_beta:beta=1.5").params == {"activation": {"beta": 1.5}}


WRONG: list[tuple[dict[str, Any], type[FfnProbeError], str]] = [
    ({"norm": "rmsnrom"}, UnknownName, "Did you mean 'rmsnorm'"),
    ({"norm": "rmsnorm:epsilon=1"}, UnknownName, "Did you mean 'eps'"),
    ({"norm": "dyt:eps=1"}, UnknownName, "alpha"),
    ({"norm": "rmsnorm:eps=small"}, SwapError, "is no parameter; write rmsnorm:eps=1.0"),
    ({"activation": "sillu"}, UnknownName, "Did you mean 'silu'"),
    ({"activation": "silu:beta=2"}, UnknownName, "no parameter 'beta'"),
    ({"gating": "swiglue"}, UnknownName, "Did you mean 'swiglu'"),
    ({"gating": "gpt_oss_swiglu:limits=7"}, UnknownName, "Did you mean 'limit'"),
    ({"gating": "mlp:x=1"}, UnknownName, "no parameter 'x'"),
    ({"dtype": "bfloat15"}, UnknownName, "Did you mean 'bfloat16'"),
    ({"quantize": {"hiden": "int8"}}, UnknownName, "Did you mean 'hidden'"),
    ({"quantize": {"hidden": "int9"}}, UnknownName, "Did you mean 'int"),
    ({"quantize": {"hidden": "int8:tokens"}}, UnknownName, "Did you mean 'token'"),
    ({"quantize": {"hidden": "mxfp8:token"}}, FormatError, "choose from block"),
    ({"quantize": {"hidden": "int8:group=none"}}, FormatError, "group=128"),
    ({"quantize": {"w_up": "int8:token"}}, SwapError, "w_up:int8:channel"),
    ({"norm": "rmsnorm", "how": "exactly"}, UnknownName, "Did you mean 'exact'"),
    ({"norm": "rmsnorm", "norms": "every"}, UnknownName, "ffn, all"),
    ({}, SwapError, "nothing is to be swapped"),
    ({"norm": "rmsnorm", "blocks": []}, SwapError, "blocks is empty"),
    ({"activation": "silu", "norms": "all"}, SwapError, "needs norm="),
    ({"norm": "rmsnorm", "norms": "all", "blocks": [0]}, SwapError, "without blocks="),
    ({"activation": "silu", "gating": "geglu"}, SwapError, "names its activation already"),
    ({"dtype": "bf16", "how": "matched"}, SwapError, "none to fit"),
    ({"activation": "silu", "how": "exact"}, SwapError, "norms alone"),
]


@pytest.mark.parametrize(("wish", "error", "message"), WRONG, ids=[str(w) for w, _, _ in WRONG])
def test_a_wrong_wish_is_refused_before_any_model_is_touched(
    wish: dict[str, Any], error: type[FfnProbeError], message: str
) -> None:
    model = torch.nn.Identity()
    with pytest.raises(error, match=message):
        swap(model, example=torch.zeros(1), **wish)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("nrom=rmsnorm", UnknownName, "Did you mean 'norm'"),
        ("norm", SwapError, "write norm=..."),
        ("norm=", SwapError, "says not what norm is to become"),
        ("norm=rmsnorm,norm=dyt", SwapError, "given twice: 'rmsnorm' and 'dyt'"),
        ("", SwapError, "nothing is to be swapped"),
        ("quantize=hidden", UnknownName, "no format ''"),
    ],
)
def test_a_wrong_command_line_is_refused(
    text: str, error: type[FfnProbeError], message: str
) -> None:
    with pytest.raises(error, match=message):
        Swap.parse(text)


def test_a_stored_swap_with_an_unknown_entry_is_refused() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'norm'"):
        Swap.from_dict({"nrom": "rmsnorm"})


@given(st.text(alphabet="abcnormsilugtq=:,+- 019.", max_size=40))
def test_any_text_is_a_swap_or_an_error_made_on_purpose(text: str) -> None:
    try:
        found = Swap.parse(text)
    except FfnProbeError:
        return
    assert Swap.from_dict(found.to_dict()) == found


def test_an_unknown_block_is_named_with_the_nearest() -> None:
    swapping = swap(
        tiny_lm.load("ln-gelu"), norm="rmsnorm", blocks="layers.1.fnn", example=batch()
    )
    with pytest.raises(UnknownName, match=r"Did you mean 'layers\.1\.ffn'"), swapping:
        pass


def test_a_swap_needs_to_know_where_the_blocks_are() -> None:
    swapping = swap(tiny_lm.load("ln-gelu"), norm="rmsnorm")
    with pytest.raises(SwapError, match=r"needs example= .* or found="), swapping:
        pass


def test_what_a_swap_did_comes_back_from_json() -> None:
    done = Swapped(
        "norm=rmsnorm (matched)",
        (Change("norm", "ffn", "norm", "layernorm", "rmsnorm", "gain and bias refitted", 31.5),
         Change("norm", "other", "norm2", "layernorm", "rmsnorm")),
        (Left("norm", "norm3", "it is rmsnorm already"),),
        {"sqnr_db": 40.0},
    )  # fmt: skip
    assert Swapped.from_dict(json.loads(json.dumps(done.to_dict()))) == done
    assert done.worst_sqnr_db == 31.5
    assert str(done).splitlines() == [
        "norm=rmsnorm (matched)",
        "  norm norm: layernorm -> rmsnorm (gain and bias refitted), 31.5 dB",
        "  norm norm2: layernorm -> rmsnorm",
        "  left norm3: it is rmsnorm already",
    ]
