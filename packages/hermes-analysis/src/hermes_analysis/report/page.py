"""The page of a report. Needs jinja2 and plotly (extra "report"); plotly gives nothing but its script, inlined once."""

import json
import math
from pathlib import Path
from typing import Any

from hermes_proto.common.v1 import price_source_pb2
from hermes_proto.core.v1 import run_record_pb2 as rr

from hermes_analysis.load import RunRecord
from hermes_analysis.metrics.details import details
from hermes_analysis.metrics.series import series
from hermes_analysis.metrics.summarise import Prepared, summarise
from hermes_analysis.optional import optional
from hermes_analysis.output import write_text
from hermes_analysis.render import capacity, duration, energy, number, percent, stage_part
from hermes_analysis.report.charts import Chart, all_charts, path_chart
from hermes_analysis.report.fleet import fleet_charts
from hermes_analysis.summary import level_bounds

_MOST_ROWS = 60
"""Rows of a table in the page; what is left out is said below it."""
_MOST_SCENARIO_CHARACTERS = 200_000


def report_html(run: RunRecord) -> str:
    """Return a run as one HTML page that needs nothing else: styles, data and scripts are in it."""
    ready = Prepared.of(run)
    summary = summarise(run, ready)
    more = details(run, ready)
    charts = all_charts(ready, series(run, ready.index), more.stages)
    charts += fleet_charts(run)
    if summary.path is not None:
        charts.append(path_chart(summary.path))
    return render(
        "page.html.j2",
        charts,
        title=summary.name or "run",
        summary=summary,
        bounds=level_bounds(summary.levels),
        batches=any(not math.isnan(client.mean_batch) for client in summary.clients),
        details=more,
        stage_part=stage_part,
        latencies=[
            (name, getattr(summary.total, field))
            for name, field in (
                ("Time to first token", "ttft_s"),
                ("Between tokens (ITL)", "itl_s"),
                ("Per output token (TPOT)", "tpot_s"),
                ("End to end", "e2e_s"),
                ("End to end per output token", "normalised_latency_s"),
            )
            if getattr(summary.total, field) is not None
        ],
        manifest=run.manifest,
        most_rows=_MOST_ROWS,
        sources=_sources(run.manifest),
        scenario=_scenario(run.manifest),
        origins=[(o.path, o.origin) for o in run.manifest.scenario.origins if o.origin != "default"][:_MOST_ROWS],
        versions=sorted(run.manifest.versions.items()),
    )


def render(template: str, charts: list[Chart], **values: Any) -> str:
    """Fill a template with charts, by section, and values. Raises MissingExtraError without jinja2 or plotly."""
    jinja2 = optional("jinja2", "The HTML report", "report")
    plotly = optional("plotly.offline", "The HTML report", "report")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": duration,
        "number": number,
        "percent": percent,
        "energy": energy,
        "capacity": capacity,
    }
    sections: dict[str, list[Chart]] = {}
    for chart in charts:
        sections.setdefault(chart.section, []).append(chart)
    page: str = environment.get_template(template).render(
        sections=sections,
        chart_data=_script_json({chart.name: chart.figure for chart in charts}),
        plotly_js=plotly.get_plotlyjs(),
        **values,
    )
    return page


def write_report(run: RunRecord, path: str | Path, *, force: bool = False) -> None:
    """Write the report. Raises OutputError when the file exists (without `force`) or cannot be written."""
    write_text(Path(path), report_html(run), force=force)


def _sources(manifest: rr.RunManifest) -> list[tuple[rr.ClientInfo, list[tuple[str, float]]]]:
    """Return of each client where its prices come from: names and shares."""
    names = {
        price_source_pb2.PRICE_SOURCE_MEASURED: "measured",
        price_source_pb2.PRICE_SOURCE_INTERPOLATED: "interpolated",
        price_source_pb2.PRICE_SOURCE_EXTRAPOLATED: "extrapolated",
        price_source_pb2.PRICE_SOURCE_ANALYTICAL: "analytical",
    }
    answers = []
    for client in manifest.clients[:_MOST_ROWS]:
        shares = [
            (name, client.source_share[place]) for place, name in names.items() if place < len(client.source_share)
        ]
        answers.append((client, [(name, share) for name, share in shares if share > 0]))
    return answers


def _scenario(manifest: rr.RunManifest) -> str:
    """Return the resolved scenario, indented; as it is when it is no JSON."""
    text = manifest.scenario.canonical_json
    try:
        shown = json.dumps(json.loads(text), indent=2, ensure_ascii=False) if text else ""
    except json.JSONDecodeError:
        shown = text
    if len(shown) > _MOST_SCENARIO_CHARACTERS:
        shown = shown[:_MOST_SCENARIO_CHARACTERS] + "\n... (cut; the run directory has it whole)"
    return shown


def _script_json(value: Any) -> str:
    """Return JSON that may stand in a script element: no "<" can end it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
