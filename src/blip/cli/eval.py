"""`blip eval`: evaluate a model, or predictions made elsewhere, on a task's data."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click

from blip.cli import options as o
from blip.cli.commands import DECODING, INPUT, OUTPUT, argument, command, option
from blip.cli.output import plural, print_table
from blip.cli.texts import closed_answers
from blip.metrics.formatting import format_number
from blip_lite.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from blip.eval.base import Report
    from blip.eval.statistics import Difference

TASKS = ("caption", "nocaps", "retrieval", "vqa", "nlvr", "video-retrieval", "judgements")
CAPTIONS, RANKINGS = ("caption", "nocaps"), ("retrieval", "video-retrieval", "vqa")
TASKS_OF: Mapping[str, Sequence[str]] = {  # the tasks that use a flag; the others refuse it
    "prompt": CAPTIONS,
    "beams": (*CAPTIONS, "vqa"),
    "max_length": (*CAPTIONS, "vqa"),
    "min_length": (*CAPTIONS, "vqa"),
    "mode": ("vqa",),
    "answers": ("vqa",),
    "k": RANKINGS,
    "order": ("nlvr",),
    "frames": ("video-retrieval",),
    "frame_sampling": ("video-retrieval",),
    "texts": ("judgements",),
}
DATA_HELP = "Reference data: table, folder, shards or data set (repeatable)."


@dataclass(kw_only=True)
class DataFlags:
    """Flags of the model and its data."""

    data: Annotated[tuple[str, ...], option(metavar="SPEC", help=DATA_HELP, complete=o.dataset_names)] = ()
    split: Annotated[str | None, option(help="Split of a known data set.", default="test")] = None
    model: o.ModelName = None
    predictions: Annotated[Path | None, option(metavar="FILE", help="Score this file instead of a model.")] = None
    allow_missing: Annotated[
        bool, option(help="predictions: score only the rows that have one; ignore surplus ones.")
    ] = False
    order: Annotated[str, option(help="nlvr: image order: given, both or random (original).")] = "given"
    seed: Annotated[int, option(help="Random seed for resampling and --order random.")] = 0
    limit: o.Limit = None
    frames: Annotated[int, option(min=1, group=INPUT, help="video: frames per clip.")] = 8
    frame_sampling: Annotated[
        str, option(group=INPUT, help="video: frame sampling uniform (original) or linspace.")
    ] = "uniform"
    texts: Annotated[
        Path | None, option(metavar="FILE", group=INPUT, help="judgements: captions file of Flickr8k.")
    ] = None
    workers: o.Workers = None
    meteor_spice: Annotated[
        Literal["auto", "never"], option(group=OUTPUT, help="METEOR and SPICE, which need Java: auto or never.")
    ] = "auto"


@dataclass(kw_only=True)
class DecodingFlags:
    """Flags of a model's predictions."""

    group = DECODING
    prompt: Annotated[str | None, option(metavar="TEXT", help="caption: prompt.", default="the model's")] = None
    beams: Annotated[int, option(min=1, max=32, help="caption, vqa: beam width.")] = 3
    max_length: Annotated[int | None, option(min=2, help="Maximum tokens.", default="caption 20, vqa 10")] = None
    min_length: Annotated[int | None, option(min=0, help="Minimum tokens.", default="caption 5, vqa 1")] = None
    mode: Annotated[
        Literal["generate", "rank"] | None, option(help="vqa: generate or rank.", default="rank with --answers")
    ] = None
    answers: Annotated[
        str | None, option(metavar="LIST", help="vqa: allowed answers: a file or a comma-separated list.")
    ] = None
    k: Annotated[
        int | None, option(min=0, help="Candidates to re-rank; 0: none.", default="retrieval 256, video, vqa 128")
    ] = None
    batch_size: o.BatchSize = None


@dataclass(kw_only=True)
class ReportFlags:
    """Flags of the report."""

    group = OUTPUT
    output: Annotated[
        Path | None, option("-o", "--output", metavar="DIR", help="Folder for metrics, examples and a page.")
    ] = None
    overwrite: o.Overwrite = False
    metrics: Annotated[
        str | None, option(metavar="LIST", help="Only these metrics, comma-separated (bleu: all four).")
    ] = None
    bootstrap: Annotated[int, option(min=0, help="Bootstrap samples for intervals; 0 for no intervals.")] = 1000
    compare: Annotated[
        Path | None, option(metavar="DIR", help="Compare with another evaluation, example by example.")
    ] = None
    submission: Annotated[
        Path | None, option(metavar="FILE", help="Write predictions in the task server's format.")
    ] = None
    fail_under: Annotated[
        tuple[str, ...], option(metavar="METRIC=X", help="Exit 1 if a metric is below X (repeatable).")
    ] = ()
    no_progress: o.NoProgress = False


@dataclass(kw_only=True)
class Flags(o.Machine, ReportFlags, o.Columns, DecodingFlags, DataFlags):
    """All flags but the task."""

    def settings(self) -> dict[str, str]:
        """Return the flags that change what is computed, for the records of the evaluation."""
        others = {"data", "threads", "workers", "quiet", *(field.name for field in fields(ReportFlags))}
        return {k: str(v) for k, v in vars(self).items() if v not in (None, False) and k not in others}


@command
def eval(
    *, task: Annotated[str, argument("TASK", help=f"{', '.join(TASKS)}.", complete=lambda: TASKS)] = "", flags: Flags
) -> int:
    """Evaluate a model, or predictions made elsewhere, on a task.

    Example: blip eval caption --data coco --split test -m caption-base -o eval/mine
    """
    _check(task, flags)
    evaluation = _evaluation(task, flags)
    metrics = _check_metrics(evaluation, flags)
    other = None if flags.compare is None else _examples(flags.compare, task)
    start = time.perf_counter()
    if flags.predictions is not None:
        from blip.eval.prediction_files import read_predictions
        from blip.eval.run import score_predictions

        name, predictions = str(flags.predictions), read_predictions(flags.predictions, evaluation.form)
        source = _source(evaluation, flags)
        report = score_predictions(
            evaluation, source, predictions, limit=flags.limit, allow_missing=flags.allow_missing
        )
    else:
        source = _source(evaluation, flags)
        name, report = _evaluate(task, evaluation, source, flags)
    for text in report.failed:  # the source has reported its own invalid rows
        o.note(text)
    skipped = map(str, getattr(source, "skipped", ()))
    report = replace(report.finite().only(metrics), failed=(*report.failed, *skipped))
    return _finish(task, flags, name, report, other, time.perf_counter() - start)


def _check(task: str, flags: Flags) -> None:
    """Raise UsageError for what is wrong before anything is loaded."""
    from blip.eval import results
    from blip.eval.prediction_files import check_submission
    from blip.io.lock import exclusive

    if task not in TASKS:
        problem = f"unknown task '{task}'{did_you_mean(task, TASKS)}" if task else "no task"
        raise UsageError(f"{problem}; must be one of {', '.join(TASKS)}")
    if not flags.data:
        raise UsageError("no data; give --data FILE, FOLDER or a known set ('blip datasets' lists them)")
    if flags.predictions is not None and flags.model is not None:
        raise UsageError("--predictions with -m; must be one of the two")
    _check_used(task, flags)
    if flags.allow_missing and flags.predictions is None:
        raise UsageError("--allow-missing; must be used with --predictions")
    _thresholds(flags.fail_under)
    if flags.submission is not None:
        check_submission(flags.submission, task)
        if flags.submission.exists() and not flags.overwrite:
            raise UsageError(f"--submission {flags.submission} exists; choose another name or use --overwrite")
        results.require_writable(flags.submission.parent)
    if flags.output is not None:
        click.get_current_context().with_resource(exclusive(flags.output))
        results.check_folder(flags.output, overwrite=flags.overwrite)


def _check_used(task: str, flags: Flags) -> None:
    """Raise UsageError for a flag that would change nothing."""
    for field in fields(flags):
        flag, tasks = f"--{field.name.replace('_', '-')}", TASKS_OF.get(field.name, TASKS)
        if getattr(flags, field.name) != field.default and task not in tasks:
            raise UsageError(f"{flag}; must be used with {' or '.join(tasks)}, not with {task}")
    for field in fields(DecodingFlags):
        if flags.predictions is not None and getattr(flags, field.name) != field.default:
            flag = f"--{field.name.replace('_', '-')}"
            raise UsageError(f"{flag} with --predictions; must be used with a model")


def _check_metrics(evaluation: Any, flags: Flags) -> list[str] | None:
    """Return the metrics to report. Raises UsageError for --metrics and --fail-under that the task does not have."""
    from blip.eval.base import metric_family

    names: tuple[str, ...] = evaluation.metric_names
    chosen = None if flags.metrics is None else [name.strip() for name in flags.metrics.split(",")]
    families = {metric_family(name) for name in names}
    for name in chosen or ():
        if name not in names and name not in families and metric_family(name) not in names:
            raise UsageError(f"--metrics {name}; must be of {', '.join(names)}{did_you_mean(name, names)}")
    for name in _thresholds(flags.fail_under):
        if name not in names and metric_family(name) not in names:
            raise UsageError(f"--fail-under {name}; must be of {', '.join(names)}{did_you_mean(name, names)}")
        if chosen is not None and name not in chosen and metric_family(name) not in chosen:
            raise UsageError(f"--fail-under {name}; must be among --metrics {flags.metrics}")
    return chosen


def _examples(folder: Path, task: str) -> list[dict[str, Any]]:
    from blip.eval.results import read_examples

    return read_examples(folder, task)


def _thresholds(texts: Sequence[str]) -> dict[str, float]:
    """Return the values of --fail-under by metric."""
    thresholds: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            thresholds[name] = float(value)
        except ValueError as error:
            raise UsageError(f"--fail-under {text}; must be METRIC=NUMBER") from error
        if not math.isfinite(thresholds[name]):
            raise UsageError(f"--fail-under {text}; must be a finite number")
    return thresholds


def _evaluation(task: str, flags: Flags) -> Any:
    """Return the evaluation of a task with the settings of the flags."""
    from blip.eval.run import EVALUATIONS
    from blip_lite.config import from_values

    lengths = {"max_length": flags.max_length, "min_length": flags.min_length}
    beam = {"num_beams": flags.beams, **{name: n for name, n in lengths.items() if n is not None}}
    answers = closed_answers(flags.answers, flags.mode) or []
    k = {} if flags.k is None else {"k": flags.k}
    caption: dict[str, float] = {"max_length": 20, "min_length": 5, **beam}
    if task == "nocaps":
        caption["repetition_penalty"] = 1.1
    captions = {"name": task, "decoding": caption, "prompt": flags.prompt, "meteor_spice": flags.meteor_spice}
    settings: dict[str, Mapping[str, Any]] = {
        "caption": captions,
        "nocaps": captions,
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
    return from_values(EVALUATIONS[task], settings[task])


def _source(evaluation: Any, flags: Flags) -> Any:
    """Open the data."""
    from blip.data.known_datasets import resolve
    from blip.data.sources import Reading
    from blip_lite.config import from_values

    resolved = [resolve(spec, flags.split or "test") for spec in flags.data]
    paths = [str(path) for names, _ in resolved for path in names]
    roots = [flags.root] if flags.root else [root for _, root in resolved if root is not None]
    values = {**flags.reading(), "root": [str(root) for root in roots]} if roots else flags.reading()
    return evaluation.open(paths, from_values(Reading, values))


def _evaluate(task: str, evaluation: Any, source: Any, flags: Flags) -> tuple[str, Report]:
    """Return the name of the model and the report of its predictions."""
    from blip.cli.batch_run import Progress
    from blip.eval.photos import BATCH, Photos
    from blip.eval.run import first, run

    default = o.ANSWERER if task == "vqa" else o.BUNDLED
    o.note_default(flags.model, default, flags.quiet)
    model = flags.load_torch(o.model_name(flags.model, default), flags.image_size)
    model.require(evaluation.capability)
    photos = Photos(
        flags.batch_size or max(BATCH, model.default_batch_size), flags.workers or o.default_workers(), flags.skip_bad
    )
    chosen = first(source, flags.limit)
    progress = Progress(len(chosen), not (flags.no_progress or flags.quiet))

    def tick(done: int, total: int) -> None:
        progress.total = total  # images, which may have several rows
        progress.update(done)

    report = run(
        evaluation,
        model.backend.module,
        model.backend.tokenizer,
        chosen,
        photos=photos,
        tick=tick,
    )
    progress.clear()
    return model.name, report


def _finish(
    task: str, flags: Flags, name: str, report: Report, other: list[dict[str, Any]] | None, seconds: float
) -> int:
    """Print and write the report; return the exit code."""
    from blip.eval import results
    from blip.eval.prediction_files import write_submission

    if not report.measures and flags.output is None and flags.submission is None:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in report.skipped.items())
        raise UsageError(f"no metric can be computed ({reasons}); -o or --submission writes the predictions")
    compared = None if other is None else _compare(report, other, flags)
    about = results.About(
        task=task,
        data=" ".join(flags.data),
        split=flags.split,
        model=name,
        n=len(report.rows),
        seconds=seconds,
        settings=flags.settings(),
    )
    metrics = results.summary(about, report, flags.bootstrap, flags.seed, compared)
    _print(metrics)
    uncovered = report.coverage.describe() if flags.predictions is not None else ""
    if uncovered:
        o.note(f"{uncovered}; not counted in the metrics")
    if flags.output is not None:
        results.write(flags.output, report, metrics)
    if flags.submission is not None:
        write_submission(flags.submission, task, report.predictions)
    where = f"; {flags.output / results.PAGE}" if flags.output is not None else ""
    o.note(f"{plural(len(report.rows), 'example')}, {len(report.failed)} failed, {seconds:.1f} s{where}", flags.quiet)
    return _exit_code(flags, report)


def _compare(report: Report, other: list[dict[str, Any]], flags: Flags) -> dict[str, Difference]:
    """Return the paired differences; a note counts the examples of only one of the evaluations."""
    from blip.eval.statistics import paired

    differences = paired(report.rows, other, flags.bootstrap, flags.seed)
    common = max((difference.n for difference in differences.values()), default=0)
    scored = [sum(bool(row.get("scores")) for row in rows) for rows in (report.rows, other)]
    if common < max(scored):
        o.note(f"--compare: {plural(common, 'example')} in common, of {scored[0]:,} here and {scored[1]:,} there")
    return differences


def _exit_code(flags: Flags, report: Report) -> int:
    """Return 1 if a row failed, a metric is not a number, or a metric is below its threshold or was not computed."""
    failed = bool(report.invalid) or (bool(report.failed) and not flags.skip_bad)
    for name, threshold in _thresholds(flags.fail_under).items():
        value = report.metrics.get(name)
        if value is None:
            o.note(f"--fail-under {name}: not computed, {report.skipped.get(name, 'the data have no such rows')}")
        elif value < threshold:
            o.note(f"{name} {format_number(value)} is below {threshold:g}")
        failed |= value is None or value < threshold
    return 1 if failed else 0


def _print(metrics: Mapping[str, Any]) -> None:
    """Print the table of metrics; notes compare them and say what was left out."""
    rows = [(name, _number(m, "value"), _interval(m), _number(m, "chance")) for name, m in metrics["metrics"].items()]
    print_table(("metric", "value", "95 % interval", "chance"), rows)
    for name, d in metrics.get("compared", {}).items():
        clear = "clear" if d["clear"] else "not clear"
        interval = f"{_interval(d)}, " if "low" in d else ""
        counts = f"{plural(d['n'], 'example')}, {d['changed']:,} changed, p {d['p']:.2g}"
        o.note(f"{name}: {format_number(d['difference'], sign=True)} ({interval}{counts}): {clear}")
    for name, reason in metrics.get("skipped", {}).items():
        o.note(f"{name}: left out, {reason}")
    sys.stdout.flush()


def _number(m: Mapping[str, Any], key: str) -> str:
    return format_number(m[key]) if key in m else "-"


def _interval(m: Mapping[str, Any]) -> str:
    return f"{format_number(m['low'])} to {format_number(m['high'])}" if "low" in m else "-"
