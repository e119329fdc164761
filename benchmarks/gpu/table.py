"""The table of a run, from its records."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.gpu.operations import Work
from benchmarks.gpu.session import Record, Session

AIM = 0.5  # of the bound by the measured rate


def table(session: Session) -> str:
    """Checks first, then one row per rate."""
    return (
        "\n".join([*_head(session), "", *_checks(session), "", *_rates(session), "", *_parts(session)]).rstrip() + "\n"
    )


def _head(session: Session) -> Iterator[str]:
    machine = _first(session, "machine")
    size = "networks of a few layers, float32" if session.small else "ViT-B, bfloat16, random weights"
    versions = ", ".join(f"{key} {machine.get(key)}" for key in ("torch", "cuda", "transformers") if machine.get(key))
    yield f"{machine.get('device')}: {size}; {versions}"
    limits = _first(session, "limits")
    if "operations" in limits:
        measured = _tera(limits, "operations"), _tera(limits, "bandwidth")
        yield f"matrix products {measured[0]} TFLOP/s, copies {measured[1]} TB/s (measured)"
    if "vendor_operations" in limits:
        stated = _tera(limits, "vendor_operations"), _tera(limits, "vendor_bandwidth")
        yield f"matrix products {stated[0]} TFLOP/s, memory {stated[1]} TB/s (vendor)"


def _checks(session: Session) -> Iterator[str]:
    checked = [record for record in session.records if "ok" in record]
    good = sum(record["ok"] is True for record in checked)
    missing = [record["section"] for record in checked if record["ok"] is None]
    failed = session.failures()
    yield f"checks: {good} passed, {len(failed)} failed, {len(missing)} not run or stopped"
    yield from (f"- failed: {record}" for record in failed)
    yield from (f"- not run: {section}" for section in missing)


def _rates(session: Session) -> Iterator[str]:
    limits = _first(session, "limits")
    yield "| rate | ours | batch | bound, measured | share | aim 50% | bound, vendor | share | Transformers | ratio |"
    yield "|---" * 10 + "|"
    for title in dict.fromkeys(r["section"] for r in session.records if "read" in r):
        records = [record for record in session.records if record["section"] == title]
        work = next(Work(r["operations"], r["read"]) for r in records if "read" in r)
        ours, peer = (_best(records, side) for side in ("ours", "Transformers"))
        cells = [title, "not measured", ""]
        if ours is not None:
            cells = [title, _number(ours["rate"]), str(ours["batch"])]
        measured = _bound(work, limits, "")
        share = ours["rate"] / measured if ours and measured else None
        aim = "" if share is None else "yes" if share >= AIM else "no"
        cells += [_number(measured), _percent(share), aim]
        vendor = _bound(work, limits, "vendor_")
        cells += [_number(vendor), _percent(ours["rate"] / vendor if ours and vendor else None)]
        note = next((r["note"] for r in records if r.get("side") == "Transformers" and "note" in r), "")
        cells += [
            _number(peer["rate"]) if peer else note,
            f"{ours['rate'] / peer['rate']:.2f}" if ours and peer else "",
        ]
        yield f"| {' | '.join(cells)} |"


def _parts(session: Session) -> Iterator[str]:
    for record in session.records:
        if record["section"].startswith("parts of a caption:") and "seconds" in record:
            yield f"{record['section']}: {1e3 * record['seconds']:.1f} ms for {record['batch']} images"


def _first(session: Session, section: str) -> Record:
    return next((record for record in session.records if record["section"] == section), {})


def _best(records: list[Record], side: str) -> Record | None:
    measured = [record for record in records if record.get("side") == side and "rate" in record]
    return max(measured, key=lambda record: record["rate"], default=None)


def _bound(work: Work, limits: Record, prefix: str) -> float | None:
    if f"{prefix}operations" not in limits:
        return None
    return 1 / work.seconds(limits[f"{prefix}operations"], limits[f"{prefix}bandwidth"])


def _tera(limits: Record, key: str) -> str:
    return f"{limits[key] / 1e12:.3g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
