"""The loss curve as a picture for what is saved: PNG by matplotlib, which every viewer of notebooks shows.

GitHub's drops an ``<svg>`` and breaks an image of that type.
"""

from __future__ import annotations

import base64
import io

from llmmagic.magics.curve import HELD_OUT_COLOUR, TRAIN_COLOUR
from llmmagic.magics.views.card import Curve

_GREY = "#8a8a8a"  # reads on white and on black; the ground is transparent
_INCHES = (7.2, 2.3)
_DPI = 110


def curve_png(curve: Curve) -> bytes:
    """Draw a loss curve.

    Args:
        curve: Finite losses, in the order of their steps.

    Returns:
        A PNG with a transparent ground; the same bytes for the same curve.
    """
    # Not pyplot: it would keep the figure, and change what the user's own plots look like.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.plot(*zip(*curve.train, strict=True), color=TRAIN_COLOUR, linewidth=1.6, label="training loss")
    if curve.held_out:
        steps, losses = zip(*curve.held_out, strict=True)
        (line,) = axes.plot(steps, losses, "o--", color=HELD_OUT_COLOUR, linewidth=1.6, markersize=4.5)
        line.set(label="held-out loss", clip_on=False)
    axes.set_xlim(0, max(curve.total_steps, 1))
    axes.set_xlabel("step", color=_GREY)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.grid(color=_GREY, alpha=0.25, linewidth=0.7)
    axes.tick_params(colors=_GREY, labelsize=8.5)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_GREY)
    axes.legend(frameon=False, labelcolor=_GREY, fontsize=9)
    file = io.BytesIO()
    canvas.print_png(file, metadata={"Software": None})
    return file.getvalue()


def curve_image(curve: Curve) -> str:
    """The same as an ``<img>`` that needs nothing but itself."""
    data = base64.b64encode(curve_png(curve)).decode()
    first, last = curve.train[0], curve.train[-1]
    label = f"Loss from {first[1]:.3f} at step {first[0]} to {last[1]:.3f} at step {last[0]}"
    return f'<img src="data:image/png;base64,{data}" alt="{label}" style="width:100%;max-width:640px">'
