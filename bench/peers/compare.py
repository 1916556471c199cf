#!/usr/bin/env python3
"""compare: one table from several bench.peers JSON files.

    compare.py [--base LABEL] [--markdown] FILE.json...

Files with the same label are pooled: the cell is the median of all their runs.
Behind every value stands its speed relative to the base: 2.00x is always twice
as fast and 1/20 twenty times slower, for rates as for times.  Marks: * the time limit cut the measurement
short (fewer operations were done); ! there were errors (listed below).
"""

import argparse
import json
import statistics


def load(paths):
    """Four dicts by label, labels in order of arrival: metrics, seconds, CPU probes, errors.

    The metrics of a label are name -> {runs, unit, better, cut, errors, notes}.
    """
    table, seconds, probes, group_errors = {}, {}, {}, {}
    for path in paths:
        with open(path) as stream:
            data = json.load(stream)
        label = data["label"]
        seconds.setdefault(label, []).append(data["seconds"])
        for group, info in data["groups"].items():
            probes.setdefault(label, []).extend(info.get("cpu_probe_ms", []))
            if info.get("error"):
                group_errors.setdefault(label, []).append(f"{group}: {info['error']}")
        metrics = table.setdefault(label, {})
        for name, entry in data["metrics"].items():
            pooled = metrics.setdefault(
                name,
                {"runs": [], "unit": entry["unit"], "better": entry["better"], "cut": False, "errors": {}, "notes": []},
            )
            if entry["runs"]:
                pooled["unit"], pooled["better"] = entry["unit"], entry["better"]
            pooled["runs"] += entry["runs"]
            pooled["cut"] = pooled["cut"] or entry["cut"]
            for what, count in entry["errors"].items():
                pooled["errors"][what] = pooled["errors"].get(what, 0) + count
            pooled["notes"] += [n for n in entry["notes"] if n not in pooled["notes"]]
    return table, seconds, probes, group_errors


def number(value):
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}"


def speed(ratio):
    if ratio >= 9.995:
        return f"{ratio:,.0f}x"
    return f"{ratio:.2f}x" if ratio >= 0.095 else f"1/{1 / ratio:,.0f}"


def cell(entry, base):
    if entry is None or not entry["runs"]:
        return "failed" if entry and entry["errors"] else "-"
    value = statistics.median(entry["runs"])
    text = number(value) + ("*" if entry["cut"] else "") + ("!" if entry["errors"] else "")
    if base and base["runs"] and entry is not base and entry["unit"] not in ("%", "count"):
        other = statistics.median(base["runs"])
        if value > 0 and other > 0:
            ratio = value / other if entry["better"] == "higher" else other / value
            text += f" ({speed(ratio)})"
    return text


def rows_of(table, seconds, probes, base):
    """The header, a row for each workload, and how busy the machine was with other things: a fixed piece of work."""
    labels = list(table)
    order = max(table.values(), key=len)
    names = list(order) + sorted({name for metrics in table.values() for name in metrics} - set(order))
    rows = [["workload", "unit", *labels]]
    for name in names:
        unit = next(metrics[name]["unit"] for metrics in table.values() if name in metrics)
        rows.append([name, unit, *(cell(table[label].get(name), base.get(name)) for label in labels)])
    median_probe = [number(statistics.median(probes[label])) if probes.get(label) else "-" for label in labels]
    rows.append(["(cpu probe: noise)", "ms", *median_probe])
    rows.append(["(benchmark took)", "s", *(number(sum(seconds[label])) for label in labels)])
    return rows


def print_rows(rows, markdown):
    if markdown:
        rows.insert(1, ["---", "---"] + ["---:"] * (len(rows[0]) - 2))
        for row in rows:
            print("| " + " | ".join(row) + " |")
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        left = [row[i].ljust(widths[i]) for i in range(2)]
        right = [row[i].rjust(widths[i]) for i in range(2, len(row))]
        print("  ".join(left + right).rstrip())


def notes_of(table, group_errors):
    for label, metrics in table.items():
        yield from (f"{label}: group {text}" for text in group_errors.get(label, []))
        for name, entry in metrics.items():
            yield from (f"{label}: {name}: {what} ({count} times)" for what, count in entry["errors"].items())
            yield from (f"{label}: {name}: {note}" for note in entry["notes"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", metavar="FILE.json")
    parser.add_argument("--base", default="local", help="label to compare with (default local)")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    args = parser.parse_args()
    table, seconds, probes, group_errors = load(args.files)
    print_rows(rows_of(table, seconds, probes, table.get(args.base, {})), args.markdown)
    print(f"\nRatios: speed relative to {args.base}. * cut short by the time limit, ! errors.\n")
    for text in notes_of(table, group_errors):
        print(f"- {text}")


if __name__ == "__main__":
    main()
