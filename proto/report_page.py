"""What every report page of the project shares: one look, everything escaped, everything in the one file.

A page asks no network for anything and equal contents give equal bytes.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
from matplotlib.figure import Figure

_TEMPLATES = Path(__file__).parent / "templates"
_SVG_STYLE = {
    # Without these the ids in the file are random and letters depend on the viewer's fonts.
    "svg.hashsalt": "report",
    "svg.fonttype": "path",
    # A name with dollar signs is a name, no formula.
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#333333",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}


def render_page(template: Path, **values: Any) -> str:
    """Renders a template; `{% include "page.css" %}` gives it the style of all pages.

    Args:
      template: a Jinja file; a name in it that `values` lacks is an error.
      **values: for the template, escaped where they are text.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, _TEMPLATES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(**values)


def chart_style() -> Any:
    """Returns the context in which a chart is to be made and saved: `with chart_style(): ...`."""
    return mpl.rc_context(_SVG_STYLE)


def to_svg(chart: Figure) -> bytes:
    """Saves a chart made within `chart_style`; equal charts give equal bytes."""
    buffer = io.BytesIO()
    chart.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def data_uri(data: bytes, kind: str) -> str:
    """Makes the address of an embedded picture; `kind` is "png", "jpeg" or "svg+xml"."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
