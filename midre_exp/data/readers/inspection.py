"""What `midre-exp data inspect` found, for people."""

from __future__ import annotations

from typing import Any

from midre_exp.data.cache import abbreviate

#: What was found, as plain values.
Report = dict[str, Any]

#: Pillow's names of what a pixel holds.
_MODES = {"L": "grey", "RGB": "RGB", "RGBA": "RGB with transparency", "LA": "grey with transparency",
          "P": "palette", "1": "black and white", "I;16": "16-bit grey"}  # fmt: skip
_WIDTH = 13  # of the first column


def text(report: Report) -> str:
    """The report for people: one line per question, the answer to what to type last."""
    lines: list[tuple[str, str]] = []
    if report["problem"] is not None:
        lines.append(("problem", report["problem"]))
    if "layout" in report:
        lines += _people_lines(report)
    else:
        lines.append(("images", f"{report['images']:,}"))
    lines += _picture_lines(report["pictures"])
    if "duplicates" in report:
        lines += _duplicate_lines(report["duplicates"])
    lines += [("note", remark) for remark in report["remarks"]]
    for official in report["official"]:
        title, missing = official["name"], official["missing"]
        whole = f"but: {missing}" if missing else f"use {official['settings']}"
        lines.append(("official", f"looks like the download that data/dataset/{title} reads; {whole}"))
    if "command" in report:
        lines.append(("run it", report["command"]))
    return "\n".join([report["path"], *(f"  {head:{_WIDTH}}{words}" for head, words in lines)])


def _people_lines(report: Report) -> list[tuple[str, str]]:
    each, orders = report["images_each"], report["orders"]
    lines = [("layout", report["layout"])]
    if report["root"] != report["path"]:
        lines.append(("root", f"{report['root']} is taken for it"))
    lines.append(("identities", f"{report['identities']:,}: {abbreviate(report['names'])}"))
    if report["splits"]:
        parts = [
            f"{part} {n['images']:,} images of {n['identities']:,}" for part, n in report["splits"].items()
        ]
        lines.append(("split", f"{'; '.join(parts)} (data.split=drawn pools them)"))
    else:
        lines.append(("split", "none, so data.test_share of each private identity's images is held out"))
    lines.append(
        (
            "images",
            f"{report['images']:,}; each identity {each['least']:,} to {each['most']:,}, median "
            f"{each['median']:g}",
        )
    )
    if each["least"] < each["most"]:
        for title in ("smallest", "largest"):
            people = ", ".join(f"{name} {count:,}" for name, count in each[title].items())
            lines.append((title, people))
        enough = each["identities_with_at_least"].items()
        lines.append(("at least", ", ".join(f"{least} images: {people:,}" for least, people in enough)))
    if report["empty"]:
        lines.append(("empty", abbreviate(report["empty"])))
    same = orders["alphabetical"] == orders["natural"]
    both = "natural too" if same else f"data.order=natural: {abbreviate(orders['natural'][:3])}, …"
    first = abbreviate(orders["alphabetical"][:3])
    lines.append(("label order", f"alphabetical as in ImageFolder: {first}, …; {both}"))
    if "private" in report:
        counts = report["counts"]
        lines.append(
            (
                "in a run",
                f"{report['private']:,} private identities with {counts['private']:,} images, "
                f"{report['public']:,} others with {counts['public']:,} public images",
            )
        )
    return lines


def _picture_lines(pictures: Report) -> list[tuple[str, str]]:
    lines = []
    if pictures["sizes"]:
        sizes = abbreviate([f"{size} px ({n:,})" for size, n in pictures["sizes"].items()])
        if pictures["different_sizes"] > 1:
            width, height = pictures["width"], pictures["height"]
            sizes = (
                f"width {width['least']} to {width['most']} px, median {width['median']}; height "
                f"{height['least']} to {height['most']} px, median {height['median']}; most frequent {sizes}"
            )
        lines.append(("resolution", sizes))
        colours = ", ".join(f"{_MODES.get(mode, mode)} {n:,}" for mode, n in pictures["modes"].items())
        formats = ", ".join(f"{name} {n:,}" for name, n in pictures["formats"].items())
        lines.append(("colours", f"{colours}; formats {formats}"))
    bad = pictures["unreadable"]
    said = f"{len(bad):,}: {abbreviate([f'{name} ({why})' for name, why in bad.items()])}" if bad else "none"
    how = "every image was decoded" if pictures["decoded"] else "headers alone were read; --decode tries all"
    lines.append(("unreadable", f"{said} ({how})"))
    return lines


def _duplicate_lines(duplicates: Report) -> list[tuple[str, str]]:
    lines = []
    for kind, groups in duplicates.items():
        if groups:
            some = abbreviate([" = ".join(group[:3]) for group in groups[:5]])
            more = f" and {len(groups) - 5:,} more" if len(groups) > 5 else ""
            lines.append(("duplicates", f"{kind.replace('_', ' ')}, {len(groups):,} group(s): {some}{more}"))
    return lines or [("duplicates", "none")]
