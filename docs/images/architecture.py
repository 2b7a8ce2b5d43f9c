"""Draws docs/images/architecture.svg: the wings of the house, in the order of the contract, and what imports what.

    python docs/images/architecture.py

Needs the `dev` extra (grimp comes with import-linter) and Python 3.11 or later.
"""

import ast
import re
from collections import Counter
from html import escape
from pathlib import Path

import grimp
import tomllib

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "cf_cxr"
ROW, NAME, TEXT, CELL, TOP = 34, 132, 560, 27, 118
LONGEST = 88  # of a sentence in its box
GROUND = {"attributes", "causal_graph", "files", "tensor_checks", "auto", "pretrained", "examples"}


def wings() -> list[list[str]]:
    """The layers of the contract, from the roof to the ground; one list of modules each."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return [re.split(r"\s*[|:]\s*", layer) for layer in contracts[0]["layers"]]


def first_sentence(wing: str) -> str:
    """What a package or module says it is."""
    path = SOURCE / wing / "__init__.py"
    path = path if path.exists() else SOURCE / f"{wing}.py"
    text = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].replace("\n", " ")
    sentence = re.split(r"(?<=\.)\s", text)[0].rstrip(".").replace("`", "")
    return sentence if len(sentence) <= LONGEST else sentence.split(": ")[0]


def imports() -> Counter:
    """Modules of one wing that import modules of another, counted."""
    graph = grimp.build_graph("cf_cxr")
    found: Counter = Counter()
    for module in graph.modules - {"cf_cxr"}:
        importer = module.split(".")[1]
        imported = {
            other.split(".")[1] for other in graph.find_modules_directly_imported_by(module) if "." in other
        }
        found.update((importer, wing) for wing in imported - {importer})
    return found


def drawing() -> str:
    """The picture: a row a wing; a dot where it imports the wing of that column, the larger the more modules do."""
    layers = wings()
    order = [wing for layer in layers for wing in layer]
    column = {wing: NAME + TEXT + (i + 0.5) * CELL for i, wing in enumerate(order)}
    width, height = int(NAME + TEXT + len(order) * CELL + 60), int(TOP + len(order) * ROW + 36)
    found = imports()
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        '<text x="10" y="26" font-size="17" font-weight="bold">cf_cxr: a wing imports only from wings below it</text>',
        '<text x="10" y="48" font-size="12" fill="#555">a dot: the wing of this row imports the wing of that column; '
        "the larger, the more of its modules do</text>",
    ]
    for wing, x in column.items():
        out.append(
            f'<text transform="translate({x + 4:.0f},{TOP - 6}) rotate(-60)" font-size="11">{escape(wing)}</text>'
        )
    for row, wing in enumerate(order):
        y = TOP + row * ROW
        fill = "#eef1f4" if wing in GROUND else "#d6e6f5"
        out.append(
            f'<rect x="6" y="{y + 3}" width="{NAME + TEXT - 16}" height="{ROW - 6}" rx="5" fill="{fill}"/>'
        )
        out.append(f'<text x="14" y="{y + 21}" font-size="13" font-weight="bold">{escape(wing)}</text>')
        out.append(
            f'<text x="{NAME + 4}" y="{y + 21}" font-size="11.5">{escape(first_sentence(wing))}</text>'
        )
        out.append(
            f'<line x1="{NAME + TEXT}" x2="{width - 8}" y1="{y + ROW / 2}" y2="{y + ROW / 2}" stroke="#e3e3e3"/>'
        )
        for other, x in column.items():
            if count := found[wing, other]:
                radius = min(11, 3 + 1.6 * count**0.5)
                out.append(
                    f'<circle cx="{x:.0f}" cy="{y + ROW / 2:.0f}" r="{radius:.1f}" fill="#31688e">'
                    f"<title>{wing} imports {other}: {count} modules</title></circle>"
                )
            elif other == wing:
                out.append(
                    f'<rect x="{x - 4:.0f}" y="{y + ROW / 2 - 4:.0f}" width="8" height="8" fill="#bbb"/>'
                )
    return "\n".join([*out, "</svg>"]) + "\n"


if __name__ == "__main__":
    (Path(__file__).with_suffix(".svg")).write_text(drawing(), encoding="utf-8")
