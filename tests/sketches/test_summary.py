import numpy as np
import pytest

from ffn_probe.errors import SketchError
from ffn_probe.sketches import Joint, Summary

X = np.arange(12, dtype=np.float32).reshape(4, 3)


def test_parts_describe_the_same_values() -> None:
    summary = Summary.of(X)
    assert (summary.seen_rows, summary.sampled_rows, summary.dtype) == (4, 4, "float32")
    assert (
        summary.moments.count == summary.histogram.count == summary.channels.count.sum() == 12
    )
    assert summary.extremes.absmax == summary.channels.absmax.max() == 11.0


def test_unlike_dtypes_are_mixed_and_stay_so() -> None:
    half, single = Summary.of(X, dtype="bfloat16"), Summary.of(X, dtype="float32")
    assert half.merge(half).dtype == "bfloat16"
    mixed = half.merge(single)
    assert mixed.dtype == mixed.merge(half).dtype == "mixed"


def test_a_joint_on_one_side_is_kept() -> None:
    joint = Joint.of(X, X, X)
    merged = Summary.of(X).merge(Summary.of(X, joint=joint))
    assert merged.joint is not None
    assert merged.joint.equals(joint)
    assert not merged.equals(Summary.of(X).merge(Summary.of(X)))


def test_unlike_channels_do_not_merge() -> None:
    with pytest.raises(SketchError, match="3 and 4 channels"):
        Summary.of(X).merge(Summary.empty(4))
