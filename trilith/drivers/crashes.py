"""How often a machine ended by itself lately, and whether it is started again: of its record, pure.

A crash is ``[number of the start that it ended, when]``, so that noting it twice counts once.
"""

from typing import Any, Literal

Doc = dict[str, Any]
Crash = list[float]
Verdict = Literal["new", "wait", "again", "too often"]
WINDOW_S = 600.0
PAUSES_S = (0.0, 0.0, 2.0, 5.0, 15.0, 30.0)  # before it starts again, by the crashes within the window


def verdict(crashes: list[Crash], starts: int, now_s: float) -> Verdict:
    """What follows from the crash of start number `starts`; "new": it is to be noted first."""
    recent = [at_s for _, at_s in crashes if now_s - at_s < WINDOW_S]
    if [number for number, _ in crashes][-1:] != [starts]:
        return "new"
    if len(recent) >= len(PAUSES_S):
        return "too often"
    return "wait" if now_s - max(recent, default=0.0) < PAUSES_S[len(recent)] else "again"


def noted(crashes: list[Crash], starts: int, now_s: float) -> list[Crash]:
    if [number for number, _ in crashes][-1:] == [starts]:
        return crashes
    return [*([number, at_s] for number, at_s in crashes if now_s - at_s < WINDOW_S), [starts, now_s]]
