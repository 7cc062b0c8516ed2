"""The summary as one screen of a terminal. Needs rich (extra "cli")."""

import math
from collections.abc import Iterable
from typing import Any, Final, TextIO

from hermes_analysis.compare import Comparison, Difference
from hermes_analysis.metrics.details import RunDetails
from hermes_analysis.metrics.distribution import Distribution
from hermes_analysis.optional import optional
from hermes_analysis.render import (
    capacity,
    change_text,
    duration,
    energy,
    metric_value,
    number,
    percent,
    shows,
    size,
    stage_part,
)
from hermes_analysis.summary import (
    ClientSummary,
    CriticalPath,
    GroupSummary,
    RunSummary,
    level_bounds,
    summary_json,
)

__all__ = ["print_comparison", "print_details", "print_summary", "summary_json"]

_COLUMNS: Final = ("mean", "p50", "p90", "p95", "p99", "max")
_MOST_CLIENTS: Final = 12
"""More are shown by pool."""
_PIPED_WIDTH: Final = 140
_MORE_THAN_DELIVERED: Final = 1.02
"""Engines that generated this many times the tokens of the answers are worth a line."""
_SHORTEST_QUEUE: Final = 0.001
_LEAST_SHARE: Final = 0.0005
_MOST_PARTS: Final = 3
_STYLES: Final = {"stable": "green", "near saturation": "yellow", "overloaded": "red", "undetermined": "dim"}


def print_summary(summary: RunSummary, *, file: TextIO | None = None, width: int | None = None) -> None:
    """Print the summary to `file` (standard output): coloured on a terminal, plain in a pipe or a file."""
    console = _console(file, width)
    _headline(console, summary)
    tables = [_latencies(summary.total)]
    if len(summary.groups) > 1:
        tables.append(_groups(summary.groups[1:]))
    if summary.levels:
        tables.append(_levels(summary))
    if summary.clients:
        tables.append(_clients(summary.clients))
    for table in tables:
        console.print()
        console.print(table)
    for table in _system(summary):
        console.print()
        console.print(table)
    console.print()
    if summary.prompt_tokens_cached:
        share = percent(summary.prompt_tokens_cached / summary.prompt_tokens_served)
        console.print(_text(f"prefix cache: {share} of {summary.prompt_tokens_served:,} prompt tokens were there"))
    _path(console, summary.path)
    _ways(console, summary)
    _money(console, summary)
    for warning in summary.warnings:
        console.print(_text(f"warning: {warning}", "yellow"))


def print_details(more: RunDetails, *, file: TextIO | None = None) -> None:
    """Print where the time goes, confidence intervals and fairness."""
    console = _console(file)
    if more.stages:
        table = _table("where the time goes", "share of end to end", "mean", "p50", "p99")
        for part in more.stages:
            seconds = part.seconds
            cells = (percent(part.share), duration(seconds.mean), duration(seconds.p50), duration(seconds.p99))
            table.add_row(_text(f"{part.stage} {part.part}".strip()), *cells)
        console.print()
        console.print(table)
    if more.costs:
        table = _table("energy and money", "dynamic", "idle", "J per token", "cost", "USD per 1,000 requests")
        for cost in more.costs:
            table.add_row(
                _text(f"{cost.kind} {cost.name}"),
                energy(cost.dynamic_energy_j),
                energy(cost.idle_energy_j),
                number(cost.energy_j / cost.output_tokens if cost.output_tokens else None),
                _usd(cost.cost_usd),
                number(cost.cost_usd / cost.requests * 1e3 if cost.requests and cost.cost_usd else None),
            )
        console.print()
        console.print(table)
    if more.confidence:
        table = _table("95 % confidence (20 batch means)", "estimate", "+-", "batches")
        for c in more.confidence:
            fate = "independent" if c.trustworthy else "correlated: run longer"
            table.add_row(f"{c.metric} {c.statistic}", duration(c.estimate), duration(c.half_width), fate)
        console.print()
        console.print(table)
    console.print()
    if more.suggested_warm_up_s is not None:
        console.print(_text(f"warm-up by MSER-5: the first {duration(more.suggested_warm_up_s)}"))
    if more.fairness is not None:
        fair = more.fairness
        text = f"fairness over {fair.tenants} tenants (Jain): {number(fair.latency_index)} in time per token"
        worst = f"{duration(fair.worst_s_per_token)} per token for {fair.worst}"
        console.print(_text(f"{text}; {duration(fair.best_s_per_token)} for {fair.best}, {worst}"))


def print_comparison(comparison: Comparison, *, file: TextIO | None = None) -> None:
    """Print runs beside the baseline: value and change of each metric. "~" marks a change within chance."""
    console = _console(file)
    console.print(_text(f"baseline {comparison.baseline_source} ({comparison.baseline.name})", "bold"))
    table = _table("metric", "baseline", *(part for run in comparison.runs for part in (run.source, "change")))
    for row, first in enumerate(comparison.runs[0].differences):
        cells = [metric_value(first.baseline, first.unit)]
        for run in comparison.runs:
            difference = run.differences[row]
            cells += [metric_value(difference.value, difference.unit), _change(difference)]
        table.add_row(first.metric, *cells)
    console.print()
    console.print(table)
    console.print()
    for run in comparison.runs:
        for text in run.broken:
            console.print(_text(f"BROKEN {run.source}: {text}", "red"))


def _change(difference: Difference) -> Any:
    """Return a change in colour, with a mark when it is within chance."""
    if difference.change is None:
        return _text("" if difference.baseline == difference.value else "changed")
    text = f"{change_text(difference.change)}{' ~' if difference.significant is False else ''}"
    style = "" if not shows(difference.change) else "red" if difference.worse else "green"
    return _text(text, "bold red" if difference.broken else style)


def _console(file: TextIO | None, width: int | None = None) -> Any:
    """Return a console: as wide as the terminal, of a fixed width in a pipe or a file."""
    console = optional("rich.console", "The summary screen", "cli").Console(file=file, width=width, highlight=False)
    if width is None and not console.is_terminal:
        console.width = _PIPED_WIDTH
    return console


def _headline(console: Any, summary: RunSummary) -> None:
    total, counts = summary.total, summary.total.counts
    style = _STYLES.get(summary.verdict.state, "")
    title = _text(summary.name or "run", "bold")
    title.append(f"  seed {summary.seed}, {duration(summary.simulated_s)} simulated")
    if summary.warm_up_s:
        title.append(f", first {duration(summary.warm_up_s)} left out as warm-up")
    title.append("  ")
    title.append(summary.verdict.state.upper(), style)
    if summary.partial:
        title.append("  PARTIAL", "red")
    console.print(title)
    _print_indented(console, _text("; ".join(summary.verdict.evidence), "dim"))
    fates = [f"{value:,} {name.replace('_', ' ')}" for name, value in _fates(total) if value]
    text = f"{counts.arrived:,} requests: {counts.finished:,} finished"
    console.print(_text(", ".join([text, *fates])))
    if counts.arrived and counts.dropped == counts.arrived:
        why = [warning for warning in summary.warnings if "dropped" in warning]
        reason = why[0] if why else "the record does not say which limit they break"
        console.print(_text(f"ALL REQUESTS WERE DROPPED: {reason}", "bold red"))
    rates = [
        f"{number(total.request_throughput_per_s)} requests/s",
        f"{number(total.output_token_throughput_per_s)} output tokens/s",
    ]
    if total.goodput_per_s is not None:
        met = percent(total.slo_attainment)
        rates.append(f"goodput {number(total.goodput_per_s)} requests/s ({met} of arrivals met their SLO)")
    console.print(_text(", ".join(rates)))


def _fates(group: GroupSummary) -> Iterable[tuple[str, int]]:
    """Yield what became of the requests that did not finish."""
    counts = group.counts
    for name in ("dropped", "shed", "timed_out", "failed", "unfinished", "cancelled"):
        yield name, getattr(counts, name)


def _latencies(group: GroupSummary) -> Any:
    table = _table("latency", "of", *_COLUMNS)
    for name, distribution in (
        ("time to first token", group.ttft_s),
        ("between tokens (ITL)", group.itl_s),
        ("per output token (TPOT)", group.tpot_s),
        ("end to end", group.e2e_s),
    ):
        if distribution is not None:
            table.add_row(name, f"{distribution.count:,}", *_cells(distribution))
    if group.tpot_s.count:
        i = group.interactivity_per_s
        cells = [f"{number(value)}/s" for value in (i.mean, i.p50, i.p90, i.p95, i.p99, i.slowest)]
        table.add_row("interactivity (1/TPOT)", f"{group.tpot_s.count:,}", *cells)
    return table


def _cells(d: Distribution) -> list[str]:
    return [duration(value) for value in (d.mean, d.p50, d.p90, d.p95, d.p99, d.maximum)]


def _groups(groups: Iterable[GroupSummary]) -> Any:
    table = _table("group", "arrived", "finished", "TTFT p50", "p99", "ITL p50", "p99", "E2E p50", "p99", "SLO met")
    for group in groups:
        itl = group.itl_s or Distribution.empty()
        table.add_row(
            _text(f"{group.kind} {group.name}"),
            f"{group.counts.arrived:,}",
            f"{group.counts.finished:,}",
            *(duration(v) for d in (group.ttft_s, itl, group.e2e_s) for v in (d.p50, d.p99)),
            percent(group.slo_attainment),
        )
    return table


def _levels(summary: RunSummary) -> Any:
    kinds = level_bounds(summary.levels)
    table = _table("service level", "requests", *(f"{kind.upper()} met" for kind in kinds), "all met", "required", "")
    for level in summary.levels:
        bounds = [(getattr(level, f"{kind}_s"), getattr(level, f"{kind}_attained")) for kind in kinds]
        cells = [f"≤ {duration(bound)}: {percent(met)}" if bound is not None else "" for bound, met in bounds]
        fate = _text("met", "green") if level.met else _text("BROKEN", "red")
        if not level.requests:
            fate = _text("no requests", "dim")
        table.add_row(
            _text("all" if level.name == "*" else level.name),
            f"{level.requests:,}",
            *cells,
            percent(level.attained),
            percent(level.required),
            fate,
        )
    return table


def _clients(clients: tuple[ClientSummary, ...]) -> Any:
    batches = any(not math.isnan(client.mean_batch) for client in clients)  # only service stages have them
    heads = ("utilisation", "decode seqs", *(("batch",) if batches else ()), "waiting", "KV peak")
    table = _table("client", "device", *heads, "preemptions", "energy", "cost")
    for name, several in _by_pool(clients):
        first = several[0]
        table.add_row(
            _text(name),
            _text(first.device if first.devices <= 1 else f"{first.devices} x {first.device}"),
            percent(_mean([c.utilisation for c in several])),
            number(_mean([c.mean_decode_seqs for c in several])),
            *((number(_mean([c.mean_batch for c in several])),) if batches else ()),
            _queue(_mean([c.mean_waiting for c in several])),
            percent(max(c.kv_peak_share for c in several)),
            f"{sum(c.preemptions for c in several):,}",
            energy(sum(c.energy_j for c in several)),
            _usd(sum(c.cost_usd for c in several)),
        )
    return table


def _system(summary: RunSummary) -> Iterable[Any]:
    """Yield tables of links and of the tiers of a KV store, where there are some."""
    if summary.links:
        table = _table("link", "busy", "filled", "sent", "transfers", "most at once", "lost by sharing")
        for link in summary.links[:_MOST_CLIENTS]:
            table.add_row(
                _text(link.name),
                percent(link.busy),
                percent(link.filled),
                size(link.sent_bytes),
                f"{link.transfers:,}",
                f"{link.peak_transfers:,}",
                duration(link.waiting_s),
            )
        yield table
    if summary.tiers:
        table = _table("KV tier", "memories", "capacity", "peak", "hit rate", "read", "written", "evictions")
        for tier in summary.tiers:
            table.add_row(
                _text(tier.name),
                f"{tier.memories:,}",
                capacity(tier.capacity_bytes),
                percent(tier.peak_share),
                percent(tier.hit_rate),
                size(tier.read_bytes),
                size(tier.written_bytes),
                f"{tier.evictions:,}",
            )
        yield table


def _path(console: Any, path: CriticalPath | None) -> None:
    """Say what end-to-end time is spent on, and what made late requests late."""
    if path is None:
        return
    shares = ", ".join(f"{name} {percent(share)}" for name, share in path.waits if share >= _LEAST_SHARE)
    largest = ", ".join(f"{stage_part(part)} {percent(part.share)}" for part in path.parts[:_MOST_PARTS])
    console.print(_text(f"critical path: {shares}; mostly {largest}"))
    worst = path.lateness
    if worst is not None:
        share = f"{path.late_requests:,} late requests ({path.late_means})"
        text = f"{share}: most of all {duration(worst.late_excess_s)} more in {stage_part(worst)} than the others"
        console.print(_text(text))


def _ways(console: Any, summary: RunSummary) -> None:
    """Say how good answers were, which ways requests went, and how the fleet changed."""
    for pipeline in summary.pipelines:
        if pipeline.quality is not None:
            good = f"{percent(pipeline.quality)} of answers are good, over {pipeline.finished:,}"
            console.print(_text(f"pipeline {pipeline.name}: {good}"))
    for branch in summary.branches[:_MOST_CLIENTS]:
        total = sum(count for _, count in branch.ways)
        shares = ", ".join(f"{name} {percent(count / total)}" for name, count in branch.ways)
        console.print(_text(f"branch {branch.place} of {branch.pipeline}: {shares} of {total:,}"))
    if summary.fleet is not None:
        f = summary.fleet
        text = f"fleet: {f.started} started, {f.stopped} stopped; requests retried {f.retried}, "
        console.print(_text(text + f"migrated {f.migrated}, failed {f.failed}"))


def _by_pool(clients: tuple[ClientSummary, ...]) -> list[tuple[str, list[ClientSummary]]]:
    """Return clients one by one when they are few, otherwise gathered by pool."""
    if len(clients) <= _MOST_CLIENTS:
        return [(client.name, [client]) for client in clients]
    pools: dict[str, list[ClientSummary]] = {}
    for client in clients:
        pools.setdefault(client.pool, []).append(client)
    return [(f"{pool} (x {len(several)})", several) for pool, several in pools.items()]


def _usd(cost: float) -> str:
    """Return a cost; one of nothing is of what has no price."""
    return f"{number(cost)} USD" if cost else "not known"


def _queue(mean: float) -> str:
    """Return the mean length of a queue; one that was hardly ever used is not worth its digits."""
    return f"< {_SHORTEST_QUEUE}" if 0 < mean < _SHORTEST_QUEUE else number(mean)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _money(console: Any, summary: RunSummary) -> None:
    answer = summary.energy
    if not answer.energy_j and not answer.cost_usd:
        return  # the record says nothing of either
    text = "energy not known"
    if answer.energy_j > 0:
        idle = percent(answer.idle_energy_j / answer.energy_j)
        each = number(answer.joules_per_output_token)
        text = f"energy {energy(answer.energy_j)} ({idle} idle), {each} J per output token"
    if answer.cost_usd:
        text += f"; {'cost' if answer.rent_usd else 'electricity alone'} {number(answer.cost_usd)} USD, "
        text += f"{number(answer.usd_per_million_output_tokens)} USD per million output tokens"
    if answer.carbon_g:
        text += f"; {number(answer.carbon_g / 1e3)} kg CO2e"
    console.print(_text(text))
    if answer.generated_tokens > _MORE_THAN_DELIVERED * answer.output_tokens:
        each = f"{number(answer.energy_j / answer.generated_tokens)} J"
        console.print(
            _text(
                f"output tokens are those of final answers; engines generated {number(answer.generated_tokens)} in all "
                f"(tools, thoughts, drafts of answers), {each} each"
            )
        )


def _table(first: str, *others: str) -> Any:
    table = optional("rich.table", "The summary screen", "cli").Table(
        box=_box(), show_edge=False, pad_edge=False, header_style="bold"
    )
    table.add_column(first, overflow="fold", min_width=8)
    for other in others:
        table.add_column(other, justify="right", no_wrap=True)
    return table


def _box() -> Any:
    return optional("rich.box", "The summary screen", "cli").SIMPLE_HEAD


def _print_indented(console: Any, text: Any) -> None:
    """Print text that keeps its indentation where it is wrapped."""
    for line in text.wrap(console, console.width - 2):
        line.rstrip()
        console.print(_text("  ").append_text(line))


def _text(text: str, style: str = "") -> Any:
    """Return text that is printed as it is: names may hold square brackets."""
    return optional("rich.text", "The summary screen", "cli").Text(text, style)
