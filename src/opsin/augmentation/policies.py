"""Operations drawn for each picture: RandAugment, TrivialAugment, AugMix, from one table of operations.

All three are a mixture of chains of operations. A draw is float64 `(c, 1 + 2d)`: a row a chain, its weight in the
mixture and then `d` pairs (number of the operation, strength in -1…1). What the weights lack to 1 is the picture's own.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from ..recipe import AugmentChoice
from .moving import recoloured, warped

# uint8 (S, S, 3), a strength in -1…1, the border → uint8 (S, S, 3); strength 0 changes nothing, except where a picture
# is made to fill its range. The sign tells the two directions apart where there are two.
Operation = Callable[[np.ndarray, float, str], np.ndarray]


def _map(
    xx: float = 1.0, xy: float = 0.0, x: float = 0.0, yx: float = 0.0, yy: float = 1.0, y: float = 0.0
) -> np.ndarray:
    return np.array([[xx, xy, x], [yx, yy, y]])


def _rotate(picture: np.ndarray, strength: float, border: str) -> np.ndarray:
    cos, sin = np.cos(np.deg2rad(30 * strength)), np.sin(np.deg2rad(30 * strength))
    return warped(picture, _map(cos, -sin, 0, sin, cos, 0), len(picture), border)


def _levels(picture: np.ndarray, table: np.ndarray) -> np.ndarray:
    made: np.ndarray = cv2.LUT(picture, table.astype(np.uint8))
    return made


def _posterise(picture: np.ndarray, strength: float, border: str) -> np.ndarray:
    """The low bits of each value, up to 4 of them, are 0."""
    return picture & np.uint8(256 - (1 << round(4 * abs(strength))))


def _solarise(picture: np.ndarray, strength: float, border: str) -> np.ndarray:
    """Values from a threshold on are inverted."""
    level = np.arange(256)
    return _levels(picture, np.where(level >= 256 * (1 - abs(strength)), 255 - level, level))


def _autocontrast(picture: np.ndarray, strength: float, border: str) -> np.ndarray:
    """Each channel stretched to 0…255."""
    low, high = picture.min((0, 1)).astype(float), picture.max((0, 1)).astype(float)
    spread = np.where(high > low, high - low, 255)
    tables = np.rint((np.arange(256)[:, None] - np.where(high > low, low, 0)) * 255 / spread)
    return _levels(picture, np.clip(tables, 0, 255)[None])


def _equalise(picture: np.ndarray, strength: float, border: str) -> np.ndarray:
    """Each channel's histogram made flat."""
    return np.dstack([cv2.equalizeHist(np.ascontiguousarray(picture[..., channel])) for channel in range(3)])


def _sharpness(picture: np.ndarray, strength: float, border: str) -> np.ndarray:
    """Away from, or towards, its mean over 3 × 3 pixels, in which the pixel itself counts five times."""
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    smooth = cv2.filter2D(picture, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    made: np.ndarray = cv2.addWeighted(picture, 1 + 0.9 * strength, smooth, -0.9 * strength, 0)
    return made


# Those of RandAugment (Cubuk et al. 2019, arXiv 1909.13719), of at most its strength; none mirrors a picture.
OPERATIONS: dict[str, Operation] = {
    "identity": lambda picture, strength, border: picture,
    "autocontrast": _autocontrast,
    "equalise": _equalise,
    "rotate": _rotate,
    "solarise": _solarise,
    "posterise": _posterise,
    "saturation": lambda picture, strength, border: recoloured(picture, 1, 1, 1 + 0.9 * strength),
    "contrast": lambda picture, strength, border: recoloured(picture, 1, 1 + 0.9 * strength, 1),
    "brightness": lambda picture, strength, border: recoloured(picture, 1 + 0.9 * strength, 1, 1),
    "sharpness": _sharpness,
    "shear x": lambda picture, strength, border: warped(picture, _map(xy=0.3 * strength), len(picture), border),
    "shear y": lambda picture, strength, border: warped(picture, _map(yx=0.3 * strength), len(picture), border),
    "translate x": lambda picture, strength, border: warped(picture, _map(x=0.6 * strength), len(picture), border),
    "translate y": lambda picture, strength, border: warped(picture, _map(y=0.6 * strength), len(picture), border),
}

_NAMES = tuple(OPERATIONS)
_MILD = [i for i, name in enumerate(_NAMES) if name not in ("saturation", "contrast", "brightness", "sharpness")]


def _chains(rng: np.random.Generator, shape: tuple[int, int, int], strength: np.ndarray | float) -> np.ndarray:
    """`(n, c, 1 + 2d)` of weight 1, any operation in either direction."""
    made = np.ones((*shape[:2], 1 + 2 * shape[2]))
    made[..., 1::2] = rng.integers(0, len(_NAMES), shape)
    made[..., 2::2] = np.where(rng.random(shape) < 0.5, -1, 1) * strength
    return made


def _randaugment(choice: AugmentChoice, rng: np.random.Generator, n: int) -> np.ndarray:
    """Some operations one after the other, all of one strength."""
    return _chains(rng, (n, 1, choice.policy_ops), choice.policy_strength)


def _trivialaugment(choice: AugmentChoice, rng: np.random.Generator, n: int) -> np.ndarray:
    """One operation of any strength (Müller & Hutter 2021, arXiv 2103.10158)."""
    return _chains(rng, (n, 1, 1), rng.random((n, 1, 1)))


def _augmix(choice: AugmentChoice, rng: np.random.Generator, n: int) -> np.ndarray:
    """Three chains of one to three operations, mixed with each other and the picture (Hendrycks et al. 2019).

    arXiv 1912.02781; strengths uniform up to the choice's, and without operations of the corruptions it is tested with.
    The loss stays as it is: no Jensen-Shannon divergence of several views.
    """
    made = _chains(rng, (n, 3, 3), choice.policy_strength * rng.random((n, 3, 3)))
    made[..., 1::2] = np.array(_MILD)[rng.integers(0, len(_MILD), (n, 3, 3))]
    longer = np.arange(3) >= rng.integers(1, 4, (n, 3, 1))
    made[..., 1::2][longer] = _NAMES.index("identity")
    made[..., 0] = rng.dirichlet(np.ones(3), n) * rng.random((n, 1))
    return made


POLICIES: dict[str, Callable[[AugmentChoice, np.random.Generator, int], np.ndarray]] = {
    "randaugment": _randaugment,
    "trivialaugment": _trivialaugment,
    "augmix": _augmix,
}


def sample(choice: AugmentChoice, rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    """The draws of N records, `(N, c, 1 + 2d)`."""
    return POLICIES[choice.policy](choice, rng, n)


def apply(picture: np.ndarray, chains: np.ndarray, border: str) -> np.ndarray:
    """One picture, uint8 `(S, S, 3)`, by one draw; it is left as it is."""
    if len(chains) == 1 and chains[0, 0] == 1:
        return _chained(picture, chains[0], border)
    mixed = picture * np.float32(1 - chains[:, 0].sum())
    for chain in chains:
        mixed += np.float32(chain[0]) * _chained(picture, chain, border)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def _chained(picture: np.ndarray, chain: np.ndarray, border: str) -> np.ndarray:
    for number, strength in chain[1:].reshape(-1, 2):
        picture = OPERATIONS[_NAMES[int(number)]](picture, float(strength), border)
    return picture
