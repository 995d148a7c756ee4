"""The report as one HTML page, whole in itself: no file beside it, no network, no script."""

from __future__ import annotations

import jinja2

from flsim.plots import style
from flsim_bench.charts import charts
from flsim_bench.report import Report
from flsim_bench.table import COLUMNS, texts


def page(report: Report) -> str:
    """The page's text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flsim_bench"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    workloads = [
        {"workload": w, "charts": charts(report, w), "rows": [(r, texts(r)) for r in report.rows(w)]}
        for w in report.workloads
    ]
    return environment.get_template("page.html").render(
        report=report, workloads=workloads, columns=COLUMNS, style=style()
    )
