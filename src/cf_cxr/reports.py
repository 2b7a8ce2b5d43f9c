"""Tables of measured numbers."""

from __future__ import annotations

from typing import Any


def markdown_table(results: dict[str, Any], schema) -> str:
    """The results as two Markdown tables, with intervals."""

    def show(x):
        return f"{x[0]:.1f} [{x[1]:.1f}, {x[2]:.1f}]"

    soundness = f"nELBO {results['nelbo_bits_per_dim'][0]:.3f} bits/dim; composition {results['composition'][0]:.4f}/255"
    lines = [
        soundness,
        "",
        "| do | judge on real | judge on do | on changed only | model's classifier | change /255 | "
        "reversibility /255 | exposure share |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for k, row in results["do"].items():
        unit = "AUC" if schema[k].is_discrete else f"MAE, {schema[k].unit}"
        lines.append(
            f"| {k} ({unit}) | {show(results['real'][k])} | {show(row['effectiveness'])} | "
            f"{show(row['effectiveness_changed_only'])} | {show(row['effectiveness_model_classifier'])} | "
            f"{row['change'][0]:.1f} | {row['reversibility'][0]:.1f} | {row['exposure_share_median']:.2f} |"
        )
    lines += ["", "Amplification (judge, after minus before, factual labels):", ""]
    lines += ["| do | " + " | ".join(schema.names) + " |", "|---" * (schema.n + 1) + "|"]
    for k, row in results["do"].items():
        cells = [show(row["amplification"][j]) if j in row["amplification"] else "–" for j in schema.names]
        lines.append(f"| {k} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
