"""Values as float64, quietly."""

import numpy as np
from jaxtyping import Float64, Num


def widen(values: Num[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """Return `values` as float64; a signalling NaN becomes a NaN without a warning."""
    with np.errstate(invalid="ignore"):
        return np.asarray(values, dtype=np.float64)
