"""What a learning-rate range test (Smith 2015, arXiv 1506.01186) found: the rate to take, and a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

Trial = tuple[float, float]  # rate, loss of the step before which it was set

WIDTH, HEIGHT, LEFT, BOTTOM = 640, 400, 60, 40
MEMORY = 0.8  # of the mean that runs along with the losses


def smoothed_losses(losses: Sequence[float]) -> list[float]:
    """An exponential mean of each loss and those before it, right from the first on (Kingma & Ba 2014, §3)."""
    mean, found = 0.0, []
    for number, loss in enumerate(losses, 1):
        mean = MEMORY * mean + (1 - MEMORY) * loss
        found.append(mean / (1 - MEMORY**number))
    return found


def suggested_rate(trials: Sequence[Trial]) -> float | None:
    """A tenth of the rate at which the smoothed loss is least; None where no rate made it less than it was at first."""
    losses = smoothed_losses([loss for _, loss in trials])
    best = min(range(len(losses)), key=losses.__getitem__, default=0)
    return trials[best][0] / 10 if best else None


def rate_chart(trials: Sequence[Trial]) -> str:
    """SVG: the loss of each rate as a point, their mean as a line, and a line at what is suggested.

    Rates stand on a logarithmic scale. What is more than twice the first loss is cut off.
    """
    losses = smoothed_losses([loss for _, loss in trials])
    low, high = min(loss for _, loss in trials), 2 * losses[0]
    first, last = (math.log10(trials[end][0]) for end in (0, -1))

    def x(rate: float) -> float:
        return LEFT + (math.log10(rate) - first) / ((last - first) or 1) * (WIDTH - LEFT - 20)

    def y(loss: float) -> float:
        return 20 + (high - min(loss, high)) / ((high - low) or 1) * (HEIGHT - BOTTOM - 20)

    ground = HEIGHT - BOTTOM
    line = " ".join(f"{x(rate):.1f},{y(loss):.1f}" for (rate, _), loss in zip(trials, losses))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *(f'<circle cx="{x(rate):.1f}" cy="{y(loss):.1f}" r="2" fill="#bbb"/>' for rate, loss in trials),
        f'<polyline points="{line}" fill="none" stroke="#1f5fa8" stroke-width="2"/>',
        *(
            f'<text x="{x(10.0**decade):.1f}" y="{ground + 18}" text-anchor="middle">1e{decade}</text>'
            for decade in range(math.ceil(first), math.floor(last) + 1)
        ),
        *(f'<text x="{LEFT - 8}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.3g}</text>' for v in (low, losses[0], high)),
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">learning rate</text>',
        '<text x="8" y="14">loss of a step</text>',
    ]
    best = suggested_rate(trials)
    if best and best >= trials[0][0]:
        at = f"{x(best):.1f}"
        parts.append(f'<line x1="{at}" y1="20" x2="{at}" y2="{ground}" stroke="#c33" stroke-dasharray="4"/>')
        parts.append(f'<text x="{at}" y="16" text-anchor="middle" fill="#c33">{best:.2g}</text>')
    return "\n".join([*parts, "</svg>", ""])
