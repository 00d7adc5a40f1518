"""``docs/benchmarks.md`` and its plots, made from what the parts of `make bench` left there as JSON. Nothing in it is
written by hand: a part that was not run is said to be missing."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench import objects, plot
from tests.bench.cases import CASES, Case
from tests.bench.results import Machine, Results, Spread, short

UPSTREAM, SQLITE, MARIADB, BARE = "upstream", "trilith-sqlite", "trilith-mariadb", "bare"
NAMES = {UPSTREAM: "upstream", SQLITE: "Trilith, SQLite", MARIADB: "Trilith, MariaDB", BARE: "bare handler"}
DIRECTORY = "benchmarks"  # of plots and JSON, beside the page
BUSY_PERCENT = 10
GROWTH_PLOTS = (  # file, title, unit of what is drawn, whether it is about crowds
    ("growth-requests.svg", "CPU time of a request", "ms of CPU", False),
    ("growth-crowds.svg", "CPU time in storms and failures", "ms of CPU", True),
    ("growth-times.svg", "How long storms and failures take", "s", True),
)
Form = Callable[[list[str], list[list[str]]], str]


def write_page(docs: Path) -> Path:
    """From ``docs/benchmarks/*.json``."""
    directory = docs / DIRECTORY
    sections = ["# Benchmarks\n\nMade by `make bench`; each part says when and where it was measured."]
    found = directory / "compare.json"
    if found.exists():
        sections.append(_compare_section(Results.read(found), directory))
    else:
        sections.append("## Beside upstream\n\nThis part was not run yet: `make bench PART=compare`.")
    found = directory / "objects.json"
    if found.exists():
        sections.append(_objects_section(Results.read(found)))
    else:
        sections.append("## Objects beside Swift\n\nThis part was not run yet: `make bench PART=objects`.")
    found = directory / "scale.json"
    if found.exists():
        sections.append(_scale_section(Results.read(found), directory))
    else:
        sections.append("## A region that grows\n\nThis part was not run yet: `make bench PART=scale`.")
    found = directory / "machines.json"
    if found.exists():
        results = Results.read(found)
        sections.append(
            "\n\n".join(["## Real machines and networks", machine_words(results), table(*fact_rows(results))])
        )
    else:
        sections.append("## Real machines and networks\n\nThis part was not run yet: `make bench PART=machines`.")
    page = docs / "benchmarks.md"
    page.write_text("\n\n".join(sections) + "\n")
    return page


def machine_words(results: Results) -> str:
    m: Machine = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in m.versions.items())
    where = f"{m.date}. {m.cores} cores ({m.processor}), {m.memory_gib} GiB, {m.system}, kernel {m.kernel}"
    conditions = "".join(f"\n* {name}: {words}" for name, words in results.conditions.items())
    return f"{where}, Python {m.python}. {versions}.\n{conditions}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown; the first column to the left, all others to the right."""
    marks = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, marks, *rows])


def plain(head: list[str], rows: list[list[str]]) -> str:
    """The same for a terminal."""
    widths = [max(len(row[n]) for row in [head, *rows]) for n in range(len(head))]
    return "\n".join("  ".join(c.rjust(w) if n else c.ljust(w) for n, (c, w) in enumerate(zip(r, widths, strict=True)))
                     for r in [head, *rows])  # fmt: skip


def cpu_rows(results: Results, cases: Sequence[Case | objects.Case] = CASES) -> tuple[list[str], list[list[str]]]:
    """CPU time of each operation: median and range of all spans of load, and the ratios that bars are about."""
    sides = [side for side in results.sides() if side in NAMES]
    head = ["CPU ms for each", *(NAMES[side] for side in sides)]
    head += ["upstream / SQLite", "bar"] if UPSTREAM in sides else []
    head += ["SQLite / bare"] if BARE in sides else []
    rows = []
    for case in cases:
        spreads = {side: results.spread(case.key, side, "cpu_ms") for side in sides}
        if not any(spreads.values()):
            continue
        row = [case.title, *(_with_range(spreads[side]) for side in sides)]
        if UPSTREAM in sides:
            row += [_ratio(spreads[UPSTREAM], spreads.get(SQLITE)), f"{case.bar:g}x" if case.bar else ""]
        if BARE in sides:
            row.append(_ratio(spreads.get(SQLITE), spreads[BARE]))
        rows.append(row)
    return head, rows


def _with_range(spread: Spread | None) -> str:
    if spread is None:
        return ""
    if spread.count == 1:
        return short(spread.median)
    return f"{short(spread.median)} ({short(spread.least)} to {short(spread.most)})"


def _ratio(more: Spread | None, less: Spread | None) -> str:
    return f"{short(more.median / less.median)}x" if more and less and less.median else ""


def _compare_section(results: Results, directory: Path) -> str:
    parts = ["## Beside upstream", machine_words(results)]
    words = (
        "CPU time of the whole cloud for each operation, its databases and brokers included, in milliseconds: median "
        "(least to most) of all spans of load at all numbers of clients. It is the robust figure; rates and latencies "
        "below hold for a machine that does nothing else."
    )
    head, rows = cpu_rows(results)
    parts += ["### CPU time", words, table(head, rows)]
    if ratios := _ratios(results):
        marks = {case.title: case.bar for case in CASES if case.bar and case.title in ratios}
        drawn = plot.bars("How many times less CPU time than upstream", "times; the mark is the bar", ratios, marks)
        (directory / "ratios.svg").write_text(drawn)
        parts.append(f"![ratios]({DIRECTORY}/ratios.svg)")
    parts += ["### Rates and latencies", *_rates(results)]
    parts += ["### Starts, memory, storms, images", table(*fact_rows(results))]
    parts += [_failures(results)]
    if busy := max((s.other_percent for s in results.samples), default=0.0):
        parts.append(f"What else the machine did while one side was measured, of all cores: at most {busy:.0f} %.")
    return "\n\n".join(parts)


def _objects_section(results: Results) -> str:
    words = (
        "Small objects. CPU time of the whole of each side for each request: median (least to most) of all spans of "
        "load at all numbers of clients. It is the robust figure. The clients are on the same machine."
    )
    parts = ["## Objects beside Swift", machine_words(results), words, table(*cpu_rows(results, objects.CASES))]
    parts += ["Requests a second, and the time of one in ms, median (99 %).", table(*object_rate_rows(results))]
    parts += ["Large objects by one client, and each side at rest.", table(*fact_rows(results)), _failures(results)]
    return "\n\n".join(parts)


def object_rate_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """By case and number of clients: both sides, and how many times Swift's rate ours is."""
    sides = [side for side in results.sides() if side in NAMES]
    head = ["", "clients", *(f"{NAMES[side]}{what}" for side in sides for what in (", a second", ", ms (99 %)"))]
    head += [f"SQLite / upstream, bar {objects.BAR:g}x"] if UPSTREAM in sides else []
    rows = []
    for case in objects.CASES:
        for clients in sorted({each.clients for each in results.samples if each.case == case.key}):
            row = [case.title, str(clients)]
            row += [cell for side in sides for cell in _rate_cells(results, case, side, clients)]
            ours, theirs = (results.spread(case.key, side, "per_second", clients) for side in (SQLITE, UPSTREAM))
            rows.append([*row, *([_ratio(ours, theirs)] if UPSTREAM in sides else [])])
    return head, rows


def _failures(results: Results) -> str:
    found = [s for s in results.samples if s.failed]
    told = "; ".join(f"{s.case}, {NAMES[s.side]}, {s.clients} clients: {s.failed} of {s.count}" for s in found)
    return f"Requests that failed: {told or 'none'}."


def _ratios(results: Results) -> dict[str, float]:
    found = {}
    for case in CASES:
        ours, theirs = (results.spread(case.key, side, "cpu_ms") for side in (SQLITE, UPSTREAM))
        if ours and theirs and ours.median:
            found[case.title] = theirs.median / ours.median
    return found


def _rates(results: Results) -> list[str]:
    parts = []
    for clients in sorted({sample.clients for sample in results.samples}):
        sides = [side for side in results.sides() if side in NAMES]
        rows = [
            [case.title, *(cell for side in sides for cell in _rate_cells(results, case, side, clients))]
            for case in CASES
            if any(results.spread(case.key, side, "per_second", clients) for side in sides)
        ]
        head = [f"{clients} client{'s' if clients > 1 else ''}"]
        head += [f"{NAMES[side]}{what}" for side in sides for what in (", a second", ", ms (99 %)")]
        parts.append(table(head, rows))
    return parts


def _rate_cells(results: Results, case: Case | objects.Case, side: str, clients: int) -> list[str]:
    rate, half, slow = (
        results.spread(case.key, side, what, clients) for what in ("per_second", "median_ms", "slow_ms")
    )
    if rate is None or half is None or slow is None:
        return ["", ""]
    return [short(rate.median), f"{short(half.median)} ({short(slow.median)})"]


def fact_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """All that is no request."""
    sides = list(dict.fromkeys(fact.side for fact in results.facts))
    both = UPSTREAM in sides and SQLITE in sides
    head = ["", "unit", *(NAMES.get(side, side) for side in sides), *(["upstream / SQLite"] if both else [])]
    rows = []
    for (name, unit), spreads in results.fact_spreads().items():
        row = [name, unit, *(_with_range(spreads.get(side)) for side in sides)]
        rows.append([*row, *([_ratio(spreads.get(UPSTREAM), spreads.get(SQLITE))] if both else [])])
    return head, rows


def _scale_section(results: Results, directory: Path) -> str:
    parts = ["## A region that grows", machine_words(results), scale_table(results, table)]
    for file, title, unit, crowds in GROWTH_PLOTS:
        series = {
            name: [(float(hosts), spread.median) for hosts, spread in spreads.items()]
            for (name, its_unit), spreads in results.fact_spreads().items()
            if its_unit == unit and (":" in name) == crowds
        }
        if any(len(points) > 1 for points in series.values()):
            (directory / file).write_text(plot.lines(title, "hosts", unit, series))
            parts.append(f"![{title}]({DIRECTORY}/{file})")
    return "\n\n".join(parts)


def scale_table(results: Results, form: Form) -> str:
    """A column for each number of hosts."""
    sizes = sorted({fact.side for fact in results.facts}, key=int)
    head = ["", "unit", *(f"{int(hosts):,} hosts" for hosts in sizes), "most / least hosts"]
    rows = []
    for (name, unit), spreads in results.fact_spreads().items():
        growth = _ratio(spreads.get(sizes[-1]), spreads.get(sizes[0]))
        rows.append([name, unit, *(_with_range(spreads.get(hosts)) for hosts in sizes), growth])
    return form(head, rows)


def busy_words(results: Results) -> str:
    """A warning where others used the machine, "" where not."""
    busy = sorted(sample.other_percent for sample in results.samples)
    if not busy or busy[len(busy) // 2] < BUSY_PERCENT:
        return ""
    return (
        f"Others used {busy[len(busy) // 2]:.0f} % of the machine (median): rates and times say little, measure again."
    )
