"""What `benchmarks.gpu` prints last, whether its aims are met, and its exit code: all read from the journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import measure
from benchmarks.gpu.budget import DONE, FAILED, Journal

MFU_AIM, MFU_SIZE = 0.5, "XL/2"
OVERHEAD_AIM = 0.01  # of a step
BUSY_AIM = 0.98  # of the time, for the size of MFU_SIZE


def all_checks(journal: Journal) -> list[Mapping[str, Any]]:
    """Every verdict so far."""
    return [check for stage in journal.stages.values() for check in stage.get("results", {}).get("checks", [])]


def exit_code(journal: Journal) -> int:
    """0, or 1 when a check did not pass or a part failed; what was skipped is no failure."""
    return int(bool(journal.names(FAILED)) or not all(check["passed"] for check in all_checks(journal)))


def parts(journal: Journal, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Size and results of the parts of that kind which have any."""
    for name in journal.stages:
        found, _, size = name.rpartition(" ")
        if found == kind and journal.results(name):
            yield size, journal.results(name)


def rows(journal: Journal, *kinds: str) -> list[tuple[str, dict[str, Any]]]:
    """Size and row of every batch that parts of those kinds measured."""
    return [(size, row) for kind in kinds for size, part in parts(journal, kind) for row in part.get("rows", [])]


def aims(journal: Journal) -> list[dict[str, Any]]:
    """What we want, what was measured (None: nothing), and whether that is it."""
    mfu = [row["mfu"] for size, row in rows(journal, "train", "train whole") if size == MFU_SIZE]
    best = max(mfu, default=None)
    text = f"SiT-{MFU_SIZE} trains at {MFU_AIM:.0%} MFU or more"
    found = [{"aim": text, "measured": best, "met": best is not None and best >= MFU_AIM}]
    costs = {size: part["step_over_step"]["median"] - 1 for size, part in parts(journal, "overhead") if "mode" in part}
    for size in costs or {MFU_SIZE: None}:
        cost = costs.get(size)
        text = f"LayerSync costs at most {OVERHEAD_AIM:.0%} of a step of SiT-{size}"
        found.append({"aim": text, "measured": cost, "met": cost is not None and cost <= OVERHEAD_AIM})
    busy = {size: part["busy_share"] for size, part in parts(journal, "kernels")}.get(MFU_SIZE)
    text = f"the device is busy for {BUSY_AIM:.0%} of the time that SiT-{MFU_SIZE} trains"
    return [*found, {"aim": text, "measured": busy, "met": busy is not None and busy >= BUSY_AIM}]


def report(journal: Journal) -> str:
    """The tables."""
    lines = [measure.headline(journal.record)]
    peak = journal.results("matrix product").get("peak_tflops_per_second")
    if peak is not None:
        lines.append(f"matrix product {journal.record['settings']['precision']}: {peak:.4g} TFLOP/s")
    checks = all_checks(journal)
    failed = [check for check in checks if not check["passed"]]
    lines.append(f"checks: {len(checks) - len(failed)} of {len(checks)} passed")
    lines += [f"  FAILED  {check['name']}: {check.get('error') or check.get('errors') or check}" for check in failed]
    for part in (_training(journal), _overhead(journal), _sampling(journal), _inside(journal)):
        lines += ["", *part] if part else []
    missing = [(name, stage) for name, stage in journal.stages.items() if stage["status"] != DONE]
    lines += [""] if missing else []
    lines += [f"{each['status']}  {name}: {each.get('reason') or each.get('error')}" for name, each in missing]
    for each in journal.record.get("aims", []):
        value = "not measured" if each["measured"] is None else f"{each['measured']:.2%}"
        lines.append(f"{'met    ' if each['met'] else 'NOT met'}  {each['aim']}: {value}")
    return "\n".join(lines)


def _training(journal: Journal) -> list[str]:
    table = []
    for size, row in rows(journal, "train", "train whole"):
        ms = [f"{row['ms'][part]['median']:.1f}" for part in ("step", "forward", "backward", "update")]
        rate, mfu = f"{row['images_per_second']:.1f}", f"{row['mfu']:.1%}"
        table.append([f"train {size} {_how(row)}", str(row["batch"]), rate, *ms, mfu, _mib(row["peak_mib"])])
    header = ["with LayerSync", "batch", "images/s", "ms/step", "forward", "backward", "update", "MFU", "peak MiB"]
    ends = [f"{size}: {part['ended']}" for size, part in parts(journal, "train") if "ended" in part]
    return [measure.table(header, table), *ends] if table else ends


def _overhead(journal: Journal) -> list[str]:
    table = []
    for size, part in parts(journal, "overhead"):
        if "mode" not in part:
            continue
        ratio, term = measure.spread_cell(part["step_over_step"], 4), f"{part['term_ms']['median']:.3f}"
        share = f"{part['term_share']['median']:.2%}"
        row = [f"{size} {_how(part)}", str(part["batch"]), ratio, term, share, _mib(part["extra_mib"])]
        table.append(row)
    header = ["cost of LayerSync", "batch", "step with / without", "term ms", "term / step", "extra MiB"]
    return [measure.table(header, table)] if table else []


def _sampling(journal: Journal) -> list[str]:
    table = []
    for size, row in rows(journal, "sample", "sample fp32"):
        name = f"sample {size} {row['precision']} {_how(row)}"
        name += ", extrapolated" if "extrapolated_from_steps" in row else ""
        rate, evaluation = f"{row['images_per_second']:.3g}", f"{row['ms_per_evaluation']:.2f}"
        mfu = f"{row['mfu']:.1%}" if "mfu" in row else "-"
        table.append([name, str(row["batch"]), rate, evaluation, mfu, _mib(row["peak_mib"])])
    steps = journal.record["settings"]["sampling_steps"]
    header = [f"Heun, {steps} steps, guided, no decoding", "batch", "images/s", "ms/evaluation", "MFU", "peak MiB"]
    return [measure.table(header, table)] if table else []


def _inside(journal: Journal) -> list[str]:
    lines = []
    for size, part in parts(journal, "shapes"):
        rate = part["products"]["all_tflops_per_second"]
        share = rate / journal.results("matrix product")["peak_tflops_per_second"]
        lines.append(f"{size}: the products of its shapes run at {rate:.4g} TFLOP/s, {share:.0%} of the best product")
    for size, part in parts(journal, "kernels"):
        waits = "" if part["host_waits"] is None else f", in which the host waits {part['host_waits']} times"
        lines.append(f"the device is busy for {part['busy_share']:.1%} of a step of {size}{waits}")
    return lines


def _how(row: Mapping[str, Any]) -> str:
    return {"none": "eager", "blocks": "blocks compiled", "model": "compiled"}[row["mode"]]


def _mib(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
