"""Draws docs/images/architecture.svg: what SBH Pipelines reads, what it writes, and who asks it to.

python docs/pictures/architecture.py
"""

from html import escape
from pathlib import Path

PICTURE = Path(__file__).parents[1] / "images" / "architecture.svg"

_WIDTH, _HEIGHT = 1000, 430
_INK, _DIM, _LINE, _OURS = "#1f2937", "#6b7280", "#9ca3af", "#2563eb"
_TENANTS = {"acme": "#2563eb", "bolt": "#d97706", "crown": "#059669"}
_LABEL = (
    "PostgreSQL and a bucket with all tenants; SBH Pipelines; backups of each tenant; KMS; a copy in a second region"
)
_STYLE = "font-family: system-ui, -apple-system, 'Segoe UI', sans-serif"


def text(
    x: float, y: float, what: str, *, size: int = 13, colour: str = _INK, bold: bool = False, at: str = "middle"
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" text-anchor="{at}"{weight}>{escape(what)}</text>'


def box(x: float, y: float, width: float, height: float, title: str, *, ours: bool = False) -> str:
    line, fill = (_OURS, "#eff6ff") if ours else (_LINE, "#ffffff")
    rect = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="10" fill="{fill}" stroke="{line}" stroke-width="1.5"/>'
    return rect + text(x + width / 2, y + 24, title, size=15, bold=True)


def arrow(x1: float, y1: float, x2: float, y2: float, colour: str = _DIM, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="6 4"' if dashed else ""
    return (
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" stroke-width="2"{dash}'
        f' marker-end="url(#{"blue" if colour == _TENANTS["acme"] else "grey"})"/>'
    )


def rows(x: float, y: float, width: float) -> list[str]:
    """A table whose rows belong to tenants, mixed."""
    order = ["acme", "bolt", "acme", "crown", "bolt", "acme"]
    return [
        f'<rect x="{x}" y="{y + 11 * nth}" width="{width}" height="8" rx="2" fill="{_TENANTS[name]}" opacity="0.75"/>'
        for nth, name in enumerate(order)
    ]


def chips(x: float, y: float, width: float, label: str) -> list[str]:
    """One line for each tenant."""
    drawn = []
    for nth, (name, colour) in enumerate(_TENANTS.items()):
        top = y + 30 * nth
        drawn.append(f'<rect x="{x}" y="{top}" width="{width}" height="24" rx="5" fill="{colour}" opacity="0.14"/>')
        drawn.append(text(x + 10, top + 16, label.format(name), size=12, colour=colour, at="start"))
    return drawn


def draw() -> str:
    head = "".join(
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{colour}"/></marker>'
        for name, colour in (("grey", _DIM), ("blue", _TENANTS["acme"]))
    )
    parts = [
        box(20, 90, 220, 130, "PostgreSQL"),
        text(130, 132, "every tenant in the same tables", size=12, colour=_DIM),
        *rows(50, 145, 160),
        box(20, 240, 220, 140, "S3 bucket of a region"),
        *chips(40, 277, 180, "files/{}/…"),
        box(360, 90, 280, 290, "SBH Pipelines", ours=True),
        *(
            text(382, 135 + 25 * nth, line, at="start")
            for nth, line in enumerate(
                (
                    "rows and files at one moment",
                    "only what changed, deduplicated",
                    "AES-256-GCM, a key for each tenant",
                    "read back before it counts",
                    "retention, holds, drills, copies",
                )
            )
        ),
        f'<line x1="382" y1="252" x2="618" y2="252" stroke="{_LINE}"/>',
        text(382, 278, "diff: what would change?", at="start", colour=_TENANTS["acme"], bold=True),
        text(382, 303, "restore: one transaction, proved", at="start", colour=_TENANTS["acme"], bold=True),
        text(382, 328, "undo", at="start", colour=_TENANTS["acme"], bold=True),
        text(382, 360, "every call in a signed audit trail", at="start", size=12, colour=_DIM),
        box(760, 90, 220, 140, "Backups, same region"),
        *chips(780, 127, 180, "{}: full, incremental, …"),
        box(760, 250, 220, 60, "KMS"),
        text(870, 296, "wraps each tenant's key", size=12, colour=_DIM),
        box(760, 330, 220, 60, "Copy, second region"),
        text(870, 376, "own keys, own retention", size=12, colour=_DIM),
        arrow(240, 140, 356, 140),
        arrow(240, 345, 356, 345),
        arrow(360, 200, 244, 200, _TENANTS["acme"]),
        arrow(360, 290, 244, 290, _TENANTS["acme"]),
        text(300, 192, "one tenant", size=12, colour=_TENANTS["acme"]),
        text(300, 282, "one tenant", size=12, colour=_TENANTS["acme"]),
        text(300, 132, "read only", size=12, colour=_DIM),
        arrow(640, 160, 756, 160),
        arrow(640, 280, 756, 280, dashed=True),
        arrow(640, 360, 756, 360, dashed=True),
        *(
            f'<rect x="{x}" y="20" width="{width}" height="34" rx="17" fill="#f3f4f6" stroke="{_LINE}"/>'
            + text(x + width / 2, 42, what, size=13)
            + arrow(x + width / 2, 54, x + width / 2, 86)
            for x, width, what in (
                (374, 78, "Dagster"),
                (458, 62, "REST"),
                (526, 48, "sbh"),
                (580, 66, "Python"),
            )
        ),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
        f' style="{_STYLE}" role="img" aria-label="{_LABEL}">'
        f'<defs>{head}</defs><rect width="{_WIDTH}" height="{_HEIGHT}" rx="12" fill="#fbfbfc"/>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(), "utf-8")
