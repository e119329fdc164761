"""`blip eval`: measures a model, or predictions made elsewhere, on a task's data."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from blip.cli import options as o
from blip.cli.commands import DECODING, INPUT, OUTPUT, argument, command, option
from blip.cli.output import print_table
from blip_lite.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from blip.eval.base import Report

TASKS = ("caption", "nocaps", "retrieval", "vqa", "nlvr", "video-retrieval", "judgements")
NOT_SETTINGS = (
    "output",
    "overwrite",
    "quiet",
    "debug",
    "no_progress",
    "compare",
    "submission",
    "fail_under",
    "bootstrap",
    "threads",
    "workers",
    "metrics",
    "data",
)


@dataclass(kw_only=True)
class Flags(o.Columns, o.Machine):
    """All flags but the task."""

    data: Annotated[
        tuple[str, ...],
        option(
            metavar="SPEC",
            help="Reference data: table, folder, shards or data set (repeatable).",
            complete=o.dataset_names,
        ),
    ] = ()
    split: Annotated[str | None, option(help="Split of a known data set.", default="test")] = None
    model: o.ModelName = None
    output: Annotated[
        Path | None,
        option("-o", "--output", metavar="DIR", group=OUTPUT, help="Folder for metrics, examples and a page."),
    ] = None
    overwrite: o.Overwrite = False
    predictions: Annotated[Path | None, option(metavar="FILE", help="Score this file instead of a model.")] = None
    metrics: Annotated[
        str | None, option(metavar="LIST", group=OUTPUT, help="Only these metrics, comma-separated (bleu: all four).")
    ] = None
    meteor_spice: Annotated[
        Literal["auto", "never"], option(group=OUTPUT, help="METEOR and SPICE, which need Java: auto or never.")
    ] = "auto"
    bootstrap: Annotated[
        int, option(min=0, group=OUTPUT, help="Bootstrap samples for intervals; 0 for no intervals.")
    ] = 1000
    limit: o.Limit = None
    compare: Annotated[
        Path | None, option(metavar="DIR", group=OUTPUT, help="Compare with another evaluation, example by example.")
    ] = None
    submission: Annotated[
        Path | None, option(metavar="FILE", group=OUTPUT, help="Write predictions in the task server's format.")
    ] = None
    fail_under: Annotated[
        tuple[str, ...], option(metavar="METRIC=X", group=OUTPUT, help="Exit 1 if a metric is below X (repeatable).")
    ] = ()
    prompt: Annotated[
        str | None, option(metavar="TEXT", group=DECODING, help="caption: prompt.", default="the model's")
    ] = None
    beams: Annotated[int, option(min=1, max=32, group=DECODING, help="caption, vqa: beam width.")] = 3
    max_length: Annotated[
        int | None, option(min=2, group=DECODING, help="Maximum tokens.", default="caption 20, vqa 10")
    ] = None
    min_length: Annotated[
        int | None, option(min=0, group=DECODING, help="Minimum tokens.", default="caption 5, vqa 1")
    ] = None
    mode: Annotated[
        Literal["generate", "rank"] | None,
        option(group=DECODING, help="vqa: generate or rank.", default="rank with --answers"),
    ] = None
    answers: Annotated[
        str | None,
        option(metavar="LIST", group=DECODING, help="vqa: allowed answers: a file or a comma-separated list."),
    ] = None
    k: Annotated[
        int | None,
        option(min=0, group=DECODING, help="Candidates to re-rank; 0: none.", default="retrieval 256, video, vqa 128"),
    ] = None
    order: Annotated[str, option(help="nlvr: image order: given, both or random (original).")] = "given"
    frames: Annotated[int, option(min=1, group=INPUT, help="video: frames per clip.")] = 8
    frame_sampling: Annotated[
        str, option(group=INPUT, help="video: frame sampling uniform (original) or linspace.")
    ] = "uniform"
    texts: Annotated[
        Path | None, option(metavar="FILE", group=INPUT, help="judgements: captions file of Flickr8k.")
    ] = None
    batch_size: o.BatchSize = None
    workers: o.Workers = None
    seed: Annotated[int, option(help="Random seed for resampling and --order random.")] = 0
    no_progress: o.NoProgress = False


@command
def eval(
    *, task: Annotated[str, argument("TASK", help=f"{', '.join(TASKS)}.", complete=lambda: TASKS)] = "", run: Flags
) -> int:
    """Evaluate a model, or predictions made elsewhere, on a task.

    Example: blip eval caption --data coco --split test -m caption-base -o eval/mine
    """
    _check(task, run)
    from blip.eval.run import first, read_predictions

    evaluation = _evaluation(task, run)
    source = _source(evaluation, run)
    start = time.perf_counter()
    if run.predictions is not None:
        name = str(run.predictions)
        report = evaluation.score(first(source, run.limit), read_predictions(run.predictions))
    else:
        name, report = _measured(task, evaluation, source, run)
    for text in report.failed:  # bad rows of the list itself have been told
        o.note(text)
    report = replace(_only(report, run.metrics), failed=(*report.failed, *map(str, getattr(source, "skipped", ()))))
    return _close(task, run, name, report, time.perf_counter() - start)


def _check(task: str, flags: Flags) -> None:
    """What can be said before anything is loaded."""
    from blip.eval.results import METRICS

    if task not in TASKS:
        what = f"unknown task '{task}'{did_you_mean(task, TASKS)}" if task else "no task"
        raise UsageError(f"{what}; must be one of {', '.join(TASKS)}")
    if not flags.data:
        raise UsageError("no data; give --data FILE, FOLDER or a known set ('blip datasets' lists them)")
    if flags.output is not None and (flags.output / METRICS).exists() and not flags.overwrite:
        raise UsageError(f"{flags.output} holds an evaluation; choose another folder or use --overwrite")
    _thresholds(flags.fail_under)


def _thresholds(texts: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError as error:
            raise UsageError(f"--fail-under {text}; must be METRIC=NUMBER") from error
    return found


def _evaluation(task: str, flags: Flags) -> Any:
    """The task's evaluation with what the flags say of it."""
    from blip.cli.ask import closed_answers
    from blip.eval.run import EVALUATIONS
    from blip_lite.config import from_values

    lengths = {"max_length": flags.max_length, "min_length": flags.min_length}
    beam = {"num_beams": flags.beams, **{name: n for name, n in lengths.items() if n is not None}}
    answers = closed_answers(flags.answers, flags.mode) or []
    k = {} if flags.k is None else {"k": flags.k}
    settings: dict[str, Mapping[str, Any]] = {
        "caption": {"decoding": {"max_length": 20, "min_length": 5, **beam}, "prompt": flags.prompt},
        "vqa": {
            "decoding": {"max_length": 10, "min_length": 1, **beam},
            "answers": answers,
            **k,
            "mode": flags.mode or ("rank" if answers else "generate"),
        },
        "retrieval": k,
        "nlvr": {"order": flags.order, "seed": flags.seed},
        "video-retrieval": {"frames": flags.frames, "frame_sampling": flags.frame_sampling, **k},
        "judgements": {"texts": None if flags.texts is None else str(flags.texts)},
    }
    if task in ("caption", "nocaps"):
        chosen = {**settings["caption"], "name": task, "meteor_spice": flags.meteor_spice}
        if task == "nocaps":
            chosen["decoding"] = {**chosen["decoding"], "repetition_penalty": 1.1}
        return from_values(EVALUATIONS[task], chosen)
    return from_values(EVALUATIONS[task], settings[task])


def _source(evaluation: Any, flags: Flags) -> Any:
    """The rows to measure on."""
    from blip.data.known_datasets import resolve
    from blip.data.sources import Reading
    from blip_lite.config import from_values

    found = [resolve(spec, flags.split or "test") for spec in flags.data or ()]
    paths = [str(path) for names, _ in found for path in names]
    roots = [flags.root] if flags.root else [root for _, root in found if root is not None]
    values = {**flags.reading(), "root": [str(one) for one in roots]} if roots else flags.reading()
    return evaluation.open(paths, from_values(Reading, values))


def _measured(task: str, evaluation: Any, source: Any, flags: Flags) -> tuple[str, Report]:
    """The model's name and its report."""
    from blip import api
    from blip.cli.batch_run import Progress
    from blip.eval.photos import BATCH, Photos
    from blip.eval.run import run

    default = o.ANSWERER if task == "vqa" else o.BUNDLED
    o.notice(flags.model, default, flags.quiet)
    model = api.load(
        o.model_name(flags.model, default),
        device=flags.device,
        dtype=flags.dtype,
        threads=flags.threads,
        image_size=flags.image_size,
        offline=flags.offline or None,
    )
    model.require(evaluation.capability)
    photos = Photos(flags.batch_size or BATCH, flags.workers or o.default_workers(), flags.skip_bad)
    drawn = Progress(len(source), not (flags.no_progress or flags.quiet))
    report = run(
        evaluation,
        model.backend.module,
        model.backend.tokenizer,
        source,
        limit=flags.limit,
        photos=photos,
        tick=lambda done, total: drawn.at(done),
    )
    drawn.clear()
    return model.name, report


def _only(report: Report, metrics: str | None) -> Report:
    """The report with the metrics that were asked for."""
    if metrics is None:
        return report
    wanted = [name.strip() for name in metrics.split(",")]
    families = {name: [m for m in report.measures if m == name or m.rstrip("1234") == name] for name in wanted}
    unknown = [name for name, found in families.items() if not found and name not in report.skipped]
    if unknown:
        raise UsageError(f"--metrics {unknown[0]}; must be of {', '.join([*report.measures, *report.skipped])}")
    names = {m for found in families.values() for m in found}
    return replace(report, measures={name: m for name, m in report.measures.items() if name in names})


def _close(task: str, flags: Flags, name: str, report: Report, seconds: float) -> int:
    """Prints and writes what was found; the exit code."""
    from blip.eval import results
    from blip.eval.run import write_submission
    from blip.eval.statistics import paired

    if not report.rows:
        raise UsageError(f"{name}: no prediction belongs to a row of the data; their ids must be the same")
    compared = None
    if flags.compare is not None:
        compared = paired(report.rows, results.read_examples(flags.compare), flags.bootstrap, flags.seed)
    settings = {k: str(v) for k, v in asdict(flags).items() if v not in (None, False) and k not in NOT_SETTINGS}
    about = results.About(
        task=task,
        data=" ".join(flags.data or ()),
        split=flags.split,
        model=name,
        n=len(report.rows),
        seconds=seconds,
        settings=settings,
    )
    metrics = results.summary(about, report, flags.bootstrap, flags.seed, compared)
    if flags.output is not None:
        results.write(flags.output, report, metrics)
    if flags.submission is not None:
        write_submission(flags.submission, task, report.predictions)
    _print(metrics)
    where = f"; {flags.output / results.PAGE}" if flags.output is not None else ""
    o.note(f"{len(report.rows)} examples, {len(report.failed)} failed, {seconds:.1f} s{where}", flags.quiet)
    return _verdict(flags, report)


def _verdict(flags: Flags, report: Report) -> int:
    """1 where a row failed or a metric lies below what was asked for."""
    below = False
    for name, least in _thresholds(flags.fail_under).items():
        if name not in report.metrics:
            raise UsageError(f"--fail-under {name}; unknown metric{did_you_mean(name, report.metrics)}")
        if not report.metrics[name] >= least:
            o.note(f"{name} {report.metrics[name]:.4g} is below {least:g}")
            below = True
    return 1 if below or (report.failed and not flags.skip_bad) else 0


def _print(metrics: Mapping[str, Any]) -> None:
    """A table: aligned with a header on a terminal, else tab-separated without one."""
    rows = [
        [
            name,
            f"{m['value']:.4g}" if "value" in m else "-",
            _interval(m),
            f"{m['chance']:.4g}" if "chance" in m else "-",
        ]
        for name, m in metrics["metrics"].items()
    ]
    print_table(("metric", "value", "95 % interval", "chance"), rows)
    for name, d in metrics.get("compared", {}).items():
        clear = "clear" if d["low"] > 0 or d["high"] < 0 else "not clear"
        o.note(f"{name}: {d['difference']:+.4g} ({_interval(d)}, {d['n']} examples): {clear}")
    for name, why in metrics.get("skipped", {}).items():
        o.note(f"{name}: left out, {why}")
    sys.stdout.flush()


def _interval(m: Mapping[str, Any]) -> str:
    return f"{m['low']:.4g} to {m['high']:.4g}" if "low" in m else "-"
