"""One style for all figures: what matplotlib is told, and colors that differ in gray."""

STYLE = {
    "figure.dpi": 120,
    "savefig.bbox": "tight",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
}
BASE = "#9a9a9a"
TUNED = "#1f4e79"

# Of lines: five marks beside four dashes and colors, so that no two of twenty lines look alike.
LINE_COLORS = (TUNED, BASE, "#b5651d", "#3b3b3b")
LINE_DASHES = ("-", "--", ":", "-.")
LINE_MARKS = "os^Dv"

# Of a bar's parts, seven hatches beside eight colors.
FILLS = ["#1f4e79", "#d9d9d9", "#6f93b5", "#8c8c8c", "#b5651d", "#f0d9b5", "#404040", "#c6d9ec"]
HATCHES = ("", "//", "..", "", "xx", "\\\\", "++")
