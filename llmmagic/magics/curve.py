"""The loss curve while it grows: as SVG, and as a row of blocks where there is only text."""

from __future__ import annotations

from collections.abc import Sequence

from llmmagic.magics.views.card import Curve

TRAIN_COLOUR, HELD_OUT_COLOUR = "#3b82f6", "#e8710a"  # both read well on white and on black
_WIDTH, _HEIGHT = 520, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 24
_MOST_POINTS = 260
_BLOCKS = "▁▂▃▄▅▆▇█"

Point = tuple[int, float]


def curve_svg(curve: Curve) -> str:
    """Draw a loss curve; texts and lines are of the colour of where it stands, light or dark.

    Args:
        curve: Finite losses, in the order of their steps.

    Returns:
        An ``<svg>``.
    """
    train = _thin(curve.train, _MOST_POINTS)
    values = [loss for _, loss in (*train, *curve.held_out)]
    low, high = min(values), max(values)
    margin = (high - low) * 0.06 or max(abs(high) * 0.06, 0.01)
    low, high = low - margin, high + margin
    last = max(curve.total_steps, 1)

    def place(point: Point) -> tuple[float, float]:
        step, loss = point
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / last
        y = _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - loss) / (high - low)
        return round(x, 1), round(y, 1)

    parts = [_grid(low, high, last), _line(map(place, train), TRAIN_COLOUR)]
    held_out = [place(point) for point in curve.held_out]
    if len(held_out) > 1:
        parts.append(_line(held_out, HELD_OUT_COLOUR, dashed=True))
    parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{HELD_OUT_COLOUR}"/>' for x, y in held_out]
    parts.append(_legend(bool(held_out)))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
        f' aria-label="{_label(curve)}" font-family="system-ui, sans-serif" font-size="11"'
        f' style="width:100%;max-width:{_WIDTH}px;height:auto;display:block">' + "".join(parts) + "</svg>"
    )


def _label(curve: Curve) -> str:
    return f"Loss from {curve.train[0][1]:.3f} at step {curve.train[0][0]} to {curve.train[-1][1]:.3f}"


def sparkline(curve: Curve, width: int = 40) -> str:
    """The training loss as a row of blocks, at most `width` of them."""
    losses = [loss for _, loss in _thin(curve.train, width)]
    low, span = min(losses), (max(losses) - min(losses)) or 1.0
    return "".join(_BLOCKS[round((loss - low) / span * (len(_BLOCKS) - 1))] for loss in losses)


def _thin(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` points: neighbours are averaged, so that no spike is favoured; the last stays as it is."""
    if len(points) <= most:
        return list(points)
    thinned = []
    for i in range(most - 1):
        group = points[i * (len(points) - 1) // (most - 1) : (i + 1) * (len(points) - 1) // (most - 1)]
        thinned.append((group[len(group) // 2][0], sum(loss for _, loss in group) / len(group)))
    return [*thinned, points[-1]]


def _grid(low: float, high: float, last: int) -> str:
    lines = []
    for share in (0.0, 0.5, 1.0):
        y = round(_TOP + (_HEIGHT - _TOP - _BOTTOM) * share, 1)
        loss = high - (high - low) * share
        lines.append(
            f'<line x1="{_LEFT}" y1="{y}" x2="{_WIDTH - _RIGHT}" y2="{y}" stroke="currentColor" opacity=".18"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end" fill="currentColor">{loss:.2f}</text>'
        )
    for step, anchor in ((0, "start"), (last, "end")):
        x = _LEFT if step == 0 else _WIDTH - _RIGHT
        lines.append(
            f'<text x="{x}" y="{_HEIGHT - 8}" text-anchor="{anchor}" fill="currentColor">'
            f"{'step 0' if step == 0 else f'{step:,}'}</text>"
        )
    return "".join(lines)


def _line(points: object, colour: str, *, dashed: bool = False) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)  # type: ignore[attr-defined]
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>'


def _legend(held_out: bool) -> str:
    names = [("training loss", TRAIN_COLOUR)] + ([("held-out loss", HELD_OUT_COLOUR)] if held_out else [])
    x, parts = _WIDTH / 2 - 90 * len(names) / 2, []
    for name, colour in names:
        parts.append(
            f'<circle cx="{x}" cy="{_HEIGHT - 12}" r="3.5" fill="{colour}"/>'
            f'<text x="{x + 8}" y="{_HEIGHT - 8}" fill="currentColor">{name}</text>'
        )
        x += 90
    return "".join(parts)
