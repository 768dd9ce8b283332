"""Figures as people read them."""

from __future__ import annotations


def bytes_text(count: int) -> str:
    """Bytes in decimal units, as disks and model pages give them: ``98 MB``."""
    value = float(count)
    for unit in ("bytes", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def seconds_text(seconds: float) -> str:
    """A duration: ``0.23 s``, ``42 s``, ``3 min 05 s``, ``2 h 05 min``."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = whole // 60
    return f"{minutes // 60} h {minutes % 60:02} min"


def count_text(count: int) -> str:
    """A large number of things: ``134.5 M``, ``7.1 B``; small ones in full: ``8,192``."""
    for limit, unit in ((1e9, "B"), (1e6, "M")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count:,}"


def rate_text(per_s: float) -> str:
    """A speed: ``12.3``, ``1,204``."""
    return f"{per_s:.1f}" if per_s < 99.95 else f"{per_s:,.0f}"
