"""Colours: the two themes of the app, and the inks its own renderers draw with.

Widgets take their colours from Textual's CSS. What is drawn line by line (the transcript, the context bar) needs Rich
styles instead: `Inks` derives them from whichever theme is on, so every theme of Textual works.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.style import Style
from textual.color import Color
from textual.theme import Theme

DARK = Theme(
    name="llmchat-dark",
    primary="#7aa2f7",
    secondary="#9d7cd8",
    accent="#e0af68",
    foreground="#d5d9e8",
    background="#16171f",
    surface="#1b1d28",
    panel="#232636",
    success="#8fc97a",
    warning="#e0af68",
    error="#f07a8c",
    dark=True,
)
LIGHT = Theme(
    name="llmchat-light",
    primary="#2f5fb3",
    secondary="#7a4fa3",
    accent="#a85b00",
    foreground="#23262f",
    background="#fbfaf7",
    surface="#f3f1ec",
    panel="#e7e4dc",
    success="#35732f",
    warning="#a85b00",
    error="#b3263e",
    dark=False,
)


@dataclass(frozen=True)
class Inks:
    """Rich styles of the theme that is on."""

    text: Style
    muted: Style
    faint: Style
    bold: Style
    user: Style
    assistant: Style
    system: Style
    heading: Style
    link: Style
    code: Style
    code_block: Style
    code_head: Style
    rule: Style
    warning: Style
    error: Style
    success: Style
    cursor: Style
    action: Style
    template: Style
    pinned: Style
    turn: Style
    turn_other: Style
    draft: Style
    reserve: Style
    free: Style
    syntax: tuple[tuple[str, Style], ...]
    """Styles of highlighted code by the first part of a Pygments token name, most specific first."""

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> Inks:
        """The inks of a theme.

        Args:
            variables: What `App.get_css_variables` gives.
        """

        def color(name: str) -> Color:
            return Color.parse(variables[name])

        foreground, background, surface = color("foreground"), color("background"), color("surface")
        primary, secondary, accent = color("primary"), color("secondary"), color("accent")
        success, warning, error = color("success"), color("warning"), color("error")

        def ink(
            front: Color,
            back: Color | None = None,
            *,
            bold: bool = False,
            italic: bool = False,
            underline: bool = False,
        ) -> Style:
            # None rather than False: the style takes what lies below as it is.
            return Style(
                color=front.rich_color,
                bgcolor=None if back is None else back.rich_color,
                bold=bold or None,
                italic=italic or None,
                underline=underline or None,
            )

        muted = background.blend(foreground, 0.66)
        faint = background.blend(foreground, 0.42)
        code_back = surface.blend(foreground, 0.05)
        head_back = surface.blend(foreground, 0.1)
        return cls(
            text=ink(foreground),
            muted=ink(muted),
            faint=ink(faint),
            bold=ink(foreground, bold=True),
            user=ink(accent, bold=True),
            assistant=ink(primary, bold=True),
            system=ink(secondary, bold=True),
            heading=ink(primary, bold=True),
            link=ink(primary, underline=True),
            code=ink(background.blend(accent, 0.9), code_back),
            code_block=ink(foreground, code_back),
            code_head=ink(muted, head_back),
            rule=ink(faint),
            warning=ink(warning),
            error=ink(error),
            success=ink(success),
            cursor=ink(primary, surface),
            action=ink(muted),
            template=ink(faint),
            pinned=ink(accent),
            turn=ink(background.blend(primary, 0.95)),
            turn_other=ink(background.blend(primary, 0.6)),
            draft=ink(success),
            reserve=ink(background.blend(secondary, 0.65)),
            free=ink(background.blend(foreground, 0.14)),
            syntax=(
                ("Token.Comment", ink(faint, italic=True)),
                ("Token.Keyword", ink(secondary, bold=True)),
                ("Token.Operator.Word", ink(secondary, bold=True)),
                ("Token.Operator", ink(muted)),
                ("Token.Punctuation", ink(muted)),
                ("Token.Literal.String", ink(success)),
                ("Token.Literal.Number", ink(accent)),
                ("Token.Name.Function", ink(primary)),
                ("Token.Name.Class", ink(primary, bold=True)),
                ("Token.Name.Decorator", ink(accent)),
                ("Token.Name.Builtin", ink(primary)),
                ("Token.Name.Tag", ink(primary)),
                ("Token.Generic.Deleted", ink(error)),
                ("Token.Generic.Inserted", ink(success)),
                ("Token.Generic.Heading", ink(primary, bold=True)),
            ),
        )
