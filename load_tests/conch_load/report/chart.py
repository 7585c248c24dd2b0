"""Charts as SVG: no script, no network; colours come from the page's style, so they follow light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from conch_load.report.scales import Axis, short

Point = tuple[float, float]
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 40


@dataclass
class Chart:
    """One panel. Series are drawn in the order in which they are added.

    Attributes:
        title: what is read aloud, and what stands above the panel.
        width, height: of the view box; the page scales it.
        x_labels: whether the x axis has its texts; panels above others that share it have none.
    """

    title: str
    x: Axis
    y: Axis
    width: int = 640
    height: int = 300
    x_labels: bool = True
    _marks: list[str] = field(default_factory=list)
    _legend: list[tuple[str, str, str]] = field(default_factory=list)  # text, class, kind of mark
    _labels: list[Point] = field(default_factory=list)

    @property
    def _low(self) -> int:
        return self.height - (_BOTTOM if self.x_labels else 14)

    def at(self, point: Point) -> Point:
        """Where a point is drawn."""
        across = _LEFT + self.x.place(point[0]) * (self.width - _LEFT - _RIGHT)
        return across, self._low - self.y.place(point[1]) * (self._low - _TOP)

    def _path(self, points: Iterable[Point]) -> str:
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in map(self.at, points))

    def line(self, points: Sequence[Point], css: str, legend: str = "", hints: Sequence[str] = (),
             step: bool = False) -> None:  # fmt: skip
        """A line; with ``hints``, a text for each point when the pointer is near it."""
        if not points:
            return
        shown = _stepped(points) if step else points
        self._marks.append(f'<path class="line {css}" d="{self._path(shown)}"/>')
        self._hints(points, css, hints)
        self._note(legend, css, "line")

    def area(self, points: Sequence[Point], css: str, legend: str = "", hints: Sequence[str] = ()) -> None:
        """What lies between a line and the lower end."""
        if not points:
            return
        closed = [(points[0][0], self.y.low), *points, (points[-1][0], self.y.low)]
        self._marks.append(f'<path class="area {css}" d="{self._path(closed)}Z"/>')
        self._hints(points, css, hints)
        self._note(legend, css, "area")

    def dots(self, points: Sequence[Point], css: str, legend: str = "", hints: Sequence[str] = (),
             radius: float = 2.2) -> None:  # fmt: skip
        """A cloud of points."""
        for place, point in enumerate(points):
            x, y = self.at(point)
            hint = f' data-t="{escape(hints[place])}"' if place < len(hints) else ""
            self._marks.append(f'<circle class="dot {css}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"{hint}/>')
        if points:
            self._note(legend, css, "dot")

    def bars(self, bars: Sequence[tuple[float, float, float]], css: str, legend: str = "",
             hints: Sequence[str] = ()) -> None:  # fmt: skip
        """Upright bars: (begin, end, height)."""
        for place, (begin, end, height) in enumerate(bars):
            left, top = self.at((begin, height))
            right, low = self.at((end, self.y.low))
            hint = f' data-t="{escape(hints[place])}"' if place < len(hints) else ""
            self._marks.append(
                f'<rect class="bar {css}" x="{left:.1f}" y="{top:.1f}" width="{max(right - left - 0.5, 0.8):.1f}" '
                f'height="{max(low - top, 0):.1f}"{hint}/>'
            )
        if bars:
            self._note(legend, css, "area")

    def whisker(self, x: float, low: float | None, high: float | None, css: str) -> None:
        """An interval, upright; an end that is not bounded ends in an arrow at the panel's edge."""
        across, bottom = self.at((x, self.y.low if low is None else low))
        _, top = self.at((x, self.y.high if high is None else high))
        caps = f"M{across:.1f} {bottom:.1f}V{top:.1f}"
        caps += f"M{across - 4:.1f} {bottom:.1f}h8" if low is not None else f"m-4 -6l4 6l4 -6M{across:.1f} {bottom:.1f}"
        caps += f"M{across - 4:.1f} {top:.1f}h8" if high is not None else f"M{across - 4:.1f} {top + 6:.1f}l4 -6l4 6"
        self._marks.append(f'<path class="whisker {css}" d="{caps}"/>')

    def shade(self, begin: float, end: float, text: str) -> None:
        """A part of the x axis that does not count."""
        left, _ = self.at((begin, self.y.low))
        right, _ = self.at((end, self.y.low))
        if right - left < 0.5:
            return
        self._marks.append(
            f'<rect class="shade" x="{left:.1f}" y="{_TOP}" width="{right - left:.1f}" height="{self._low - _TOP}" '
            f'data-t="{escape(text)}"/>'
        )

    def rule(self, value: float, text: str, across: bool = True) -> None:
        """A limit: a dashed line over the whole panel, with its text."""
        held = self.y if across else self.x
        if not held.low <= value <= held.high:
            return
        if across:
            _, y = self.at((self.x.low, value))
            self._marks.append(
                f'<path class="rule" d="M{_LEFT} {y:.1f}H{self.width - _RIGHT}"/>'
                f'<text class="rule-text" x="{self.width - _RIGHT - 4}" y="{y - 4:.1f}" text-anchor="end">'
                f"{escape(text)}</text>"
            )
            return
        x, _ = self.at((value, self.y.low))
        anchor, shift = ("end", -4) if x > self.width * 0.75 else ("start", 4)
        self._marks.append(
            f'<path class="rule" d="M{x:.1f} {_TOP}V{self._low}"/>'
            f'<text class="rule-text" x="{x + shift:.1f}" y="{_TOP + 10}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def label(self, point: Point, text: str) -> None:
        """A text below a point, to its right; at the right edge to its left. Left out where it would hide another."""
        x, y = self.at(point)
        if any(abs(x - other[0]) < 7 * len(text) and abs(y - other[1]) < 13 for other in self._labels):
            return
        self._labels.append((x, y))
        anchor, shift = ("end", -7) if x > self.width * 0.85 else ("start", 5)
        place = f'x="{x + shift:.1f}" y="{y + 14:.1f}" text-anchor="{anchor}"'
        self._marks.append(f'<text class="point-text" {place}>{escape(text)}</text>')

    def _hints(self, points: Sequence[Point], css: str, hints: Sequence[str]) -> None:
        for point, hint in zip(points, hints, strict=False):
            x, y = self.at(point)
            self._marks.append(f'<circle class="hit {css}" cx="{x:.1f}" cy="{y:.1f}" r="5" data-t="{escape(hint)}"/>')

    def _note(self, text: str, css: str, kind: str) -> None:
        if text:
            self._legend.append((text, css, kind))

    def render(self) -> str:
        """The figure, with its title and legend above it."""
        keys = "".join(
            f'<span class="key"><i class="{kind} {css}"></i>{escape(text)}</span>' for text, css, kind in self._legend
        )
        return (
            f'<figure class="chart"><figcaption><b>{escape(self.title)}</b>{keys}</figcaption>'
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(self.title)}">'
            f"{self._axes()}{''.join(self._marks)}</svg></figure>"
        )

    def _axes(self) -> str:
        parts = []
        for value, text in self.y.ticks(max(3, self.height // 45)):
            _, y = self.at((self.x.low, value))
            parts.append(
                f'<path class="grid" d="M{_LEFT} {y:.1f}H{self.width - _RIGHT}"/>'
                f'<text class="tick" x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'
            )
        for value, text in self.x.ticks(max(4, self.width // 80)):
            x, _ = self.at((value, self.y.low))
            parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{self._low}"/>')
            if self.x_labels:
                parts.append(f'<text class="tick" x="{x:.1f}" y="{self._low + 16}" text-anchor="middle">{text}</text>')
        middle = (_TOP + self._low) / 2
        parts.append(
            f'<text class="axis" transform="translate(12 {middle:.0f}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.y.label)}</text>"
        )
        if self.x_labels:
            parts.append(
                f'<text class="axis" x="{(_LEFT + self.width - _RIGHT) / 2:.0f}" y="{self.height - 6}" '
                f'text-anchor="middle">{escape(self.x.label)}</text>'
            )
        return "".join(parts)


def _stepped(points: Sequence[Point]) -> list[Point]:
    found = [points[0]]
    for x, y in points[1:]:
        found += [(x, found[-1][1]), (x, y)]
    return found


def stacked_bar(title: str, parts: Sequence[tuple[str, float, str]], unit: str, width: int = 960) -> str:
    """One bar across, cut into parts: (name, size, class); with a table of them under it for who cannot hover."""
    total = sum(size for _, size, _ in parts) or 1.0
    marks, left = [], 0.0
    for name, size, css in parts:
        span = size / total * width
        text = f"{name}: {short(size)} {unit}, {size / total:.0%}"
        marks.append(f'<rect class="bar {css}" x="{left:.1f}" y="4" width="{max(span - 1, 0.5):.1f}" height="34" '
                     f'data-t="{escape(text)}"/>')  # fmt: skip
        if span > 70:
            marks.append(f'<text class="bar-text" x="{left + 8:.1f}" y="26">{short(size)} {escape(unit)}</text>')
        left += span
    keys = "".join(
        f'<span class="key"><i class="area {css}"></i>{escape(name)} {short(size)} {escape(unit)} '
        f"({size / total:.0%})</span>"
        for name, size, css in parts
    )
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b>{keys}</figcaption>'
        f'<svg viewBox="0 0 {width} 42" role="img" aria-label="{escape(title)}">{"".join(marks)}</svg></figure>'
    )
