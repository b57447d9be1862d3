"""Attributions made by hand: three stories, and what a report must survive."""

import math
from dataclasses import replace

import numpy as np
from scipy.special import ndtr

from ffn_probe.attribution.attribution import (
    Attribution,
    BlockAttribution,
    Cause,
    Factorial,
    Hypothesis,
    Interval,
    Output,
    Region,
    StageError,
    Theory,
)
from ffn_probe.figures.gate_error import GateError
from ffn_probe.sketches.bit_codes import bit_codes

NAN, INF = math.nan, math.inf
EVIL = "<script>alert(1)</script>|*x*`[a](http://e.vil)"
_ROLES = (
    ("normed", "norm"),
    ("gate", "gate"),
    ("gate_act", "activation"),
    ("value", "up"),
    ("hidden", "product"),
    ("out", "down"),
)


def stages(
    injected: tuple[float, ...],
    accumulated: tuple[float, ...],
    end: float,
    floor: float = 120.0,
) -> tuple[StageError, ...]:
    """Return the six stages of a GLU; a stage drifts where it injects above the floor."""
    return tuple(
        StageError(role, stage, own, all_, end, floor, _word(own, floor))
        for (role, stage), own, all_ in zip(_ROLES, injected, accumulated, strict=True)
    )


def _word(own: float, floor: float) -> str:
    return "drift" if own < floor - 3 else "indistinguishable"


def block(layer: int, status: str, **fields: object) -> BlockAttribution:
    """Return a pair of blocks of one name."""
    name = f"model.layers.{layer}.mlp"
    return BlockAttribution(layer, name, name, status, **fields)  # type: ignore[arg-type]


# ---- three stories ----------------------------------------------------------------------


def quick_gelu() -> Attribution:
    """Return quick GELU for GELU in layer 1 of four, named by the autopsy."""
    bug = "activation: quick_gelu instead of gelu"
    sentence = "Layer 1 runs quick_gelu where the reference runs gelu."
    culprit = block(
        1,
        "local",
        end_db=33.3,
        local_db=33.3,
        inherited_db=INF,
        floor_db=120.0,
        energy=4.7,
        signal=1e4,
        local=Interval(1.0, 1.0, 1.0),
        inherited=Interval(0.0, 0.0, 0.0),
        cross=Interval(0.0, 0.0, 0.0),
        gain=1.0004,
        cosine=0.99977,
        cosine_standardised=0.9996,
        cka=0.9998,
        stages=stages((INF, INF, 34.9, INF, INF, INF), (INF, INF, 34.9, INF, 34.9, 33.3), 33.3),
        causes=(
            Cause("activation", Interval(1.0, 0.998, 1.0), 4.7),
            Cause("norm", Interval(0.0, -0.001, 0.001), 0.0),
            Cause("w_up", Interval(0.0, -0.001, 0.001), 0.0),
            Cause("w_down", Interval(0.0, -0.001, 0.001), 0.0),
        ),
        interaction=0.0,
        theory=(
            Theory(
                "activation error",
                34.8,
                34.9,
                "dB",
                0.5,
                "expected",
                "The error of the activation is what quick_gelu for gelu implies.",
                "integral over the gate's histogram",
            ),
        ),
        regions=(
            Region("negative tail", -INF, -2.0, 0.31, 0.05),
            Region("dip", -2.0, -0.5, 0.22, 0.31),
            Region("origin", -0.5, 0.5, 0.01, 0.38),
            Region("positive", 0.5, INF, 0.46, 0.26),
        ),
        patched_back=Interval(1.0, 0.999, 1.0),
        patched_in=Interval(1.0, 0.999, 1.0),
    )
    after = [
        block(
            layer,
            "inherited",
            end_db=db,
            local_db=INF,
            inherited_db=db,
            floor_db=120.0,
            energy=5.0,
            signal=1e4,
            local=Interval(0.0, 0.0, 0.0),
            inherited=Interval(1.0, 1.0, 1.0),
            cross=Interval(0.0, 0.0, 0.0),
            gain=1.0,
            cosine=0.9997,
            cosine_standardised=0.9995,
            cka=0.9997,
            stages=stages((INF,) * 6, (INF,) * 6, db),
            patched_back=Interval(0.18, 0.15, 0.21),
            patched_in=Interval(0.0, 0.0, 0.0),
        )
        for layer, db in ((2, 33.2), (3, 33.0))
    ]
    return Attribution(
        "minilm",
        "minilm-quick",
        "bug",
        f"{sentence} Replayed with the bug the reference is the candidate: 33.3 dB "
        "before, 120 dB after the fix. Layers 2 and 3 only inherit.",
        Output(
            4096,
            31.8,
            118.0,
            Interval(3.1e-4, 2.8e-4, 3.4e-4),
            1e-9,
            Interval(0.9917, 0.989, 0.994),
            Interval(2.1e-4, 0.6e-4, 3.7e-4),
            "drift",
        ),
        (
            block(
                0,
                "indistinguishable",
                end_db=INF,
                local_db=INF,
                inherited_db=INF,
                floor_db=121.0,
                energy=0.0,
                signal=9e3,
                gain=1.0,
                cosine=1.0,
                cosine_standardised=1.0,
                cka=1.0,
                stages=stages((INF,) * 6, (INF,) * 6, INF),
                patched_back=Interval(0.0, 0.0, 0.0),
                patched_in=Interval(0.0, 0.0, 0.0),
            ),
            culprit,
            *after,
        ),
        hypotheses=(
            Hypothesis(
                bug,
                "quick_gelu",
                1,
                culprit.block,
                "gate_act",
                33.3,
                33.3,
                121.0,
                120.0,
                reached=True,
                sentence=sentence,
                fix="hidden_act: gelu",
            ),
            Hypothesis(
                "activation: gelu_tanh instead of gelu",
                "gelu_tanh",
                1,
                culprit.block,
                "gate_act",
                70.2,
                33.3,
                33.2,
                120.0,
                reached=False,
                sentence="",
                fix="",
            ),
            Hypothesis(
                "eps 1e-6 instead of 1e-5",
                "1e-06",
                1,
                culprit.block,
                "normed",
                97.0,
                33.3,
                33.3,
                120.0,
                reached=False,
                sentence="",
                fix="",
            ),
        ),
        first_bad=(1, culprit.block, "activation"),
        notes=("Floor: the reference against itself, batches split in two.",),
    )


def two_swaps() -> Attribution:
    """Return LayerNorm to RMSNorm and GELU to SiLU together, with the 2 x 2."""
    ratios = (26.78, 30.86, 31.44, 31.25)
    blocks = tuple(_swapped(layer, db) for layer, db in enumerate(ratios))
    return Attribution(
        "ln-gelu",
        "ln-gelu: norm=rmsnorm, activation=silu",
        "expected",
        "Layer 0, stage activation: every layer drifts by itself, as theory says; 99.4 % of "
        "the output's error is the activation.",
        Output(
            8192,
            8.4,
            110.0,
            Interval(0.0712, 0.066, 0.077),
            1e-7,
            Interval(0.871, 0.86, 0.88),
            Interval(0.052, 0.047, 0.058),
            "drift",
        ),
        blocks,
        factorial=(
            Factorial(
                "error",
                "MSE over the signal",
                ("norm", "activation"),
                (0.0, 0.00051, 0.1417, 0.1429),
                (Interval(0.00081, 0.0006, 0.0010), Interval(0.14199, 0.131, 0.153)),
                Interval(0.0006, -0.0001, 0.0013),
                Interval(0.1429, 0.132, 0.154),
                separable=True,
                sentence="The activation makes 99.4 % of it; the two add.",
            ),
            Factorial(
                "kl",
                "nats a token",
                ("norm", "activation"),
                (0.0, 0.0008, 0.0702, 0.0712),
                (Interval(0.0009, NAN, NAN), Interval(0.0703, NAN, NAN)),
                Interval(0.0002, NAN, NAN),
                Interval(0.0712, NAN, NAN),
                separable=True,
                sentence="The activation makes 98.7 % of it; too few folds for intervals.",
            ),
        ),
        first_bad=(0, blocks[0].block, "norm"),
        notes=("Floor: the reference against itself in another batch split.",),
    )


def _swapped(layer: int, norm_db: float) -> BlockAttribution:
    apart = layer != 3
    return block(
        layer,
        "local" if layer == 0 else "mixed",
        end_db=9.1 - layer / 2,
        local_db=9.6,
        inherited_db=INF if layer == 0 else 12.2,
        floor_db=109.0 - layer,
        energy=1.2e3 + layer,
        signal=1e4,
        local=Interval(1.0 if layer == 0 else 0.61, 0.55, 0.66),
        inherited=Interval(0.0 if layer == 0 else 0.33, 0.29, 0.38),
        cross=Interval(0.06, 0.01, 0.1),
        gain=0.93,
        cosine=0.953,
        cosine_standardised=0.941,
        cka=0.968,
        stages=stages(
            (norm_db, INF, 15.9, INF, 58.0, INF),
            (norm_db, norm_db + 1, 15.5, norm_db + 2, 15.1, 9.6),
            9.1 - layer / 2,
            109.0,
        ),
        causes=(
            Cause("norm", Interval(0.012, 0.004, 0.02), 14.0),
            Cause(
                "activation",
                Interval(0.97 if apart else 0.62, 0.95 if apart else 0.5, 0.99),
                1164.0,
            ),
            Cause("w_gate", Interval(0.0, 0.0, 0.0), 0.0),
            Cause("w_up", Interval(0.0, 0.0, 0.0), 0.0),
            Cause("w_down", Interval(-0.01, -0.03, 0.01), -12.0),
        ),
        interaction=0.02 if apart else 0.31,
        separable=apart,
        theory=(
            Theory(
                "LayerNorm to RMSNorm",
                norm_db + (0.11 if layer == 0 else 0.0),
                norm_db,
                "dB",
                0.5,
                "expected",
                "The norm moves as -20 log10 |mu/sigma| says.",
                "LN = sqrt(1 + r^2) RMS - r 1",
            ),
            Theory(
                "mean of hidden",
                0.021,
                0.034 if layer == 3 else 0.0214,
                "unit of the tensor",
                0.1,
                "unexplained" if layer == 3 else "expected",
                "Stein: E[h] = rho s_g s_u / 2.",
                "exact for jointly normal gate and value",
            ),
        ),
        norm_split=(
            Cause("scale", Interval(0.021, 0.02, 0.023), 0.3),
            Cause("mean_leakage", Interval(0.83, 0.8, 0.86), 11.0),
            Cause("bias_loss", Interval(0.149, 0.12, 0.17), 2.0),
        ),
        regions=(
            Region("negative tail", -INF, -2.5, 0.36, 0.02),
            Region("dip", -2.5, -0.5, 0.33, 0.4),
            Region("origin", -0.5, 0.5, 0.05, 0.4),
            Region("positive", 0.5, INF, 0.26, 0.18),
        ),
        patched_back=Interval(0.4 - layer / 20, 0.3, 0.5),
        patched_in=Interval(0.2 + layer / 20, 0.15, 0.4),
    )


def healthy() -> Attribution:
    """Return a model against itself in another batch split."""
    blocks = tuple(
        block(
            layer,
            "indistinguishable",
            end_db=118.0 + layer,
            local_db=121.0,
            inherited_db=119.0,
            floor_db=118.5,
            energy=1e-9,
            signal=1e3,
            local=Interval(0.5, 0.2, 0.8),
            inherited=Interval(0.5, 0.2, 0.8),
            cross=Interval(0.0, -0.3, 0.3),
            gain=1.0,
            cosine=1.0,
            cosine_standardised=1.0,
            cka=1.0,
            stages=stages((121.0,) * 6, (120.0,) * 6, 118.0 + layer),
        )
        for layer in range(4)
    )
    return Attribution(
        "base",
        "again",
        "indistinguishable",
        "No difference above the floor: nothing at 4 blocks can be told from the reference "
        "against itself.",
        Output(
            4096,
            117.0,
            117.5,
            Interval(1e-10, 0.0, 3e-10),
            2e-10,
            Interval(1.0, 1.0, 1.0),
            Interval(0.0, -1e-9, 1e-9),
            "indistinguishable",
        ),
        blocks,
    )


def gates(told: Attribution) -> dict[tuple[int, str], GateError]:
    """Return for every block a normal gate, with the error of SiLU for GELU."""
    values = np.random.default_rng(0).normal(-0.4, 1.3, 100_000).astype(np.float32)
    codes, place = np.unique(bit_codes(values, 3), return_inverse=True)
    error = (values / (1 + np.exp(-values)) - values * ndtr(values)) ** 2
    row = {
        "codes": codes,
        "counts": np.bincount(place),
        "error": np.bincount(place, error),
        "expected": np.bincount(place, error * 0.9),
    }
    return {
        (b.layer, b.block): GateError.of({"layer": b.layer, "block": b.block, **row})
        for b in told.blocks
    }


# ---- what is not nice -------------------------------------------------------------------


def nothing_told() -> Attribution:
    """Return an attribution in which no number is one."""
    hollow = block(
        0,
        "mixed",
        stages=tuple(StageError(r, s, NAN, NAN, NAN, NAN, "drift") for r, s in _ROLES),
        causes=(Cause("norm", Interval(NAN), NAN),),
        separable=False,
        theory=(Theory("x", NAN, NAN, "dB", NAN, "unexplained", ""),),
        norm_split=(Cause("scale", Interval(NAN), NAN),),
        regions=(Region("dip", NAN, NAN, NAN, NAN),),
        patched_back=Interval(NAN),
        patched_in=Interval(NAN),
    )
    lost = Interval(NAN)
    return Attribution(
        "a",
        "b",
        "unexplained",
        "NaN appears first in layer 0 at the gate of the candidate.",
        Output(0, NAN, NAN, lost, NAN, lost, lost, "drift"),
        (hollow, replace(hollow, layer=1)),
        factorial=(
            Factorial(
                "kl",
                "nats a token",
                ("norm", "activation"),
                (NAN,) * 4,
                (lost, lost),
                lost,
                lost,
                separable=False,
                sentence="",
            ),
        ),
        hypotheses=(
            Hypothesis(
                "h", "", 0, "", "", NAN, NAN, NAN, NAN, reached=False, sentence="", fix=""
            ),
        ),
        first_bad=(0, "model.layers.0.mlp", "gate"),
    )


def unpaired() -> Attribution:
    """Return models trained apart: nothing pairs value by value, and no output was compared."""
    blocks = tuple(
        block(
            i,
            "unpaired",
            reason="gate has 384 channels against 256",
            cka=0.4 + i / 10,
            gain=0.8,
        )
        for i in range(4)
    )
    return Attribution(
        "ln-gelu",
        "rms-swiglu",
        "drift",
        "The two were trained apart: no block pairs.",
        None,
        blocks,
    )


def nothing() -> Attribution:
    """Return an attribution without a block."""
    return Attribution("a", "b", "indistinguishable", "Nothing was compared.", None, ())


def deep(layers: int = 80) -> Attribution:
    """Return the two swaps in many layers, of which every seventh is hit hard."""
    made = two_swaps()
    blocks = []
    for layer in range(layers):
        db = 62.0 - layer * 0.3 - (18.0 if layer % 7 == 3 else 0.0)
        kind = made.blocks[1]
        blocks.append(
            replace(
                kind,
                layer=layer,
                block=f"model.layers.{layer}.mlp",
                candidate=f"model.layers.{layer}.mlp",
                local_db=db,
                end_db=40 - layer * 0.2,
                inherited_db=INF if layer == 0 else 41 - layer * 0.2,
                energy=float(layer + 1),
            )
        )
    return replace(made, blocks=tuple(blocks))


def cancelling() -> Attribution:
    """Return parts that cancel: their shares are far beyond the whole, the output is equal."""
    made = two_swaps()
    shares = (("norm", 224.572), ("w_up", -224.403), ("w_down", 0.831))
    parts = tuple(Cause(n, Interval(v, v - 9.1, v + 9.1), 1e6 * v) for n, v in shares)
    blocks = tuple(
        replace(b, causes=parts, interaction=-567.9, separable=False) for b in made.blocks
    )
    assert made.output is not None
    quiet = replace(made.output, sqnr_db=123.6, status="indistinguishable")
    return replace(made, blocks=blocks, output=quiet, status="indistinguishable")


def evil() -> Attribution:
    """Return markup wherever an attribution may carry text, and names without end."""
    made = two_swaps()
    long = "very_long_name_of_a_module." * 12 + "mlp"
    blocks = tuple(
        replace(
            b,
            block=EVIL if i else long,
            candidate=EVIL,
            reason=EVIL,
            stages=tuple(replace(s, stage=EVIL) for s in b.stages),
            causes=tuple(replace(c, part=EVIL) for c in b.causes),
            norm_split=tuple(replace(c, part=EVIL) for c in b.norm_split),
            regions=tuple(replace(r, name=EVIL) for r in b.regions),
            theory=tuple(replace(t, name=EVIL, sentence=EVIL, source=EVIL) for t in b.theory),
        )
        for i, b in enumerate(made.blocks)
    )
    return replace(
        made,
        reference=EVIL,
        candidate=long,
        verdict=EVIL,
        blocks=blocks,
        notes=(EVIL,),
        factorial=tuple(
            replace(f, metric=EVIL, unit=EVIL, factors=(EVIL, EVIL), sentence=EVIL)
            for f in made.factorial
        ),
        hypotheses=tuple(
            replace(h, name=EVIL, variant=EVIL, block=long, sentence=EVIL, fix=EVIL)
            for h in quick_gelu().hypotheses
        ),
        first_bad=(0, long, EVIL),
    )


STORIES = {
    "quick_gelu": quick_gelu,
    "two_swaps": two_swaps,
    "healthy": healthy,
    "nothing_told": nothing_told,
    "unpaired": unpaired,
    "nothing": nothing,
    "deep": deep,
    "cancelling": cancelling,
    "evil": evil,
}
