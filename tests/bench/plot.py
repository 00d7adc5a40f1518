"""Plots as SVG text: lines over two logarithmic axes, and bars of ratios. They read on light and dark pages."""

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

Points = Sequence[tuple[float, float]]
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999933", "#882255")
INK = "#808080"
WIDTH, HEIGHT = 800, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 270, 50, 50
FONT = 'font-family="sans-serif" font-size="12"'


def lines(title: str, x_name: str, y_name: str, series: Mapping[str, Points]) -> str:
    """Each of the series as a line with its points; values that are not above 0 cannot be drawn and are left out."""
    drawn = {name: [(x, y) for x, y in points if x > 0 and y > 0] for name, points in series.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points]
    if not xs:
        raise ValueError(f"{title}: there is nothing to draw")
    across, up = _Axis(xs, LEFT, WIDTH - RIGHT), _Axis(ys, HEIGHT - BOTTOM, TOP)
    body = [_text(LEFT, 20, title, weight="bold")]
    for value in across.ticks:
        at = across.at(value)
        body += [_rule(at, TOP, at, HEIGHT - BOTTOM), _text(at, HEIGHT - BOTTOM + 18, _number(value), anchor="middle")]
    for value in up.ticks:
        at = up.at(value)
        body += [_rule(LEFT, at, WIDTH - RIGHT, at), _text(LEFT - 8, at + 4, _number(value), anchor="end")]
    body += [
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_name, anchor="middle"),
        _text(LEFT, TOP - 8, y_name),
    ]
    for number, (name, points) in enumerate(drawn.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in sorted(points))
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        body += [
            f'<circle cx="{across.at(x):.1f}" cy="{up.at(y):.1f}" r="3" fill="{colour}"/>' for x, y in sorted(points)
        ]
        body.append(_text(WIDTH - RIGHT + 12, TOP + 16 + 18 * number, name, colour=colour))
    return _page(HEIGHT, body)


def bars(title: str, x_name: str, values: Mapping[str, float], marks: Mapping[str, float]) -> str:
    """A bar for each value on a logarithmic axis from 1; `marks`: what some of them were to reach."""
    if not values:
        raise ValueError(f"{title}: there is nothing to draw")
    height = TOP + 22 * len(values) + BOTTOM
    left = 230
    across = _Axis([1.0, *values.values(), *marks.values()], left, WIDTH - 70)
    body = [_text(20, 20, title, weight="bold")]
    for value in across.ticks:
        at = across.at(value)
        body += [_rule(at, TOP, at, height - BOTTOM), _text(at, height - BOTTOM + 18, _number(value), anchor="middle")]
    body.append(_text((left + WIDTH - 70) / 2, height - 10, x_name, anchor="middle"))
    for number, (name, value) in enumerate(values.items()):
        top = TOP + 22 * number + 3
        end = across.at(max(value, 1.0))
        reached = value >= marks.get(name, 0.0)
        body.append(_text(left - 8, top + 12, name, anchor="end"))
        colour = COLOURS[1] if reached else COLOURS[0]
        body.append(f'<rect x="{left}" y="{top}" width="{end - left:.1f}" height="15" fill="{colour}"/>')
        body.append(_text(end + 5, top + 12, _number(value)))
        if name in marks:
            at = across.at(marks[name])
            body.append(
                f'<line x1="{at:.1f}" y1="{top - 2}" x2="{at:.1f}" y2="{top + 17}" stroke="{INK}" stroke-width="3"/>'
            )
    return _page(height, body)


class _Axis:
    """Logarithmic, from the power of ten below all values to the one above."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        self._begin, self._end = begin, end
        self._low = math.floor(math.log10(min(values)) + 1e-9)
        self._high = max(math.ceil(math.log10(max(values)) - 1e-9), self._low + 1)

    @property
    def ticks(self) -> list[float]:
        return [10.0**power for power in range(self._low, self._high + 1)]

    def at(self, value: float) -> float:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self._begin + share * (self._end - self._begin)


def _number(value: float) -> str:
    if value >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _text(x: float, y: float, words: str, anchor: str = "start", weight: str = "normal", colour: str = INK) -> str:
    style = f'fill="{colour}" text-anchor="{anchor}" font-weight="{weight}" {FONT}'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{INK}" stroke-opacity="0.3"/>'


def _page(height: int, body: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">'
    return "\n".join([head, *body, "</svg>", ""])
