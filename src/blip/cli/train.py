"""`blip train`: train a task; a stopped run resumes at any step."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from blip.cli import options as o
from blip.cli.commands import DEVICE, OUTPUT, argument, command, option
from blip.tasks import TASKS
from blip_lite.errors import ConfigError, EnvironmentProblem, UsageError

if TYPE_CHECKING:
    from blip.train.result import TrainingResult

EXIT_CODES = {"finished": 0, "no improvement": 0, "time": 0, "interrupted": 130, "terminated": 143}
TEXT_TOWERS = ("encoder", "decoder")
TRAINING = "Training"
Data = Annotated[
    tuple[str, ...],
    option(metavar="SPEC", help="Folder, table, tar shards or known data set (repeatable).", complete=o.dataset_names),
]


@dataclass(kw_only=True)
class ConfigFlags:
    """Flags of the config."""

    config: Annotated[str | None, option(metavar="FILE", help="YAML file (ours or the original's) or preset:NAME.")] = (
        None
    )
    set: Annotated[tuple[str, ...], option(metavar="KEY=VALUE", help="Set a key of the config (repeatable).")] = ()
    list: Annotated[bool, option(help="List the presets and exit.")] = False
    print_config: Annotated[bool, option(help="Print the merged config and exit.")] = False


@dataclass(kw_only=True)
class TaskFlags:
    """Flags about the model; the keys of the config are those of the task."""

    group = TRAINING
    init: Annotated[str | None, option(help="Model to start from: name, file or folder.", complete=o.model_names)] = (
        None
    )
    image_size: o.ImageSize = None
    freeze: Annotated[str | None, option(metavar="LIST", help="Parts to freeze: vision, text or weight names.")] = None
    lora: Annotated[int | None, option(min=1, help="Train only low-rank adapters of this rank.")] = None
    layer_decay: Annotated[float | None, option(help="Layer-wise learning-rate decay.")] = None
    queue_size: Annotated[int | None, option(min=1, help="Size of the contrastive feature queue.")] = None

    def values(self) -> dict[str, Any]:
        """Return the flags by the key of the config."""
        parts = [part.strip() for part in (self.freeze or "").split(",")]
        prefixes = [name for part in parts for name in (TEXT_TOWERS if part == "text" else [part])]
        return {
            "start.init": self.init,
            "start.image_size": self.image_size,
            "tune.freeze": None if self.freeze is None else prefixes,
            "tune.lora.rank": self.lora,
            "tune.layer_decay": self.layer_decay,
            "queue_size": self.queue_size,
        }


@dataclass(kw_only=True)
class LoopFlags:
    """Flags that are named like the fields of `blip.train.TrainConfig`."""

    group = TRAINING
    epochs: Annotated[int | None, option(min=1, help="Number of epochs.")] = None
    steps: Annotated[int | None, option(min=1, help="Optimizer steps (instead of --epochs).")] = None
    batch_size: Annotated[
        int | None, option(min=1, help="Samples per step, over all devices.", default="estimated")
    ] = None
    lr: Annotated[float | None, option(help="Learning rate.")] = None
    accumulate: Annotated[int | None, option(min=1, help="Gradient accumulation steps.")] = None
    grad_checkpoint: Annotated[
        int | None, option(min=0, help="Number of ViT blocks with activation checkpointing.")
    ] = None
    ema: Annotated[float | None, option(help="Decay of averaged weights, e.g. 0.99; 0 for none.")] = None
    start_share: Annotated[float | None, option(help="Share of the starting weights in the result.")] = None
    patience: Annotated[int | None, option(min=1, help="Stop after N evaluations without improvement.")] = None
    max_minutes: Annotated[float | None, option(help="Save and stop after this time.")] = None
    mix: Annotated[
        str | None,
        option(metavar="LIST", help="Shares of samples from each --data, as 1,2.", default="by size"),
    ] = None
    shuffle_window: Annotated[
        int | None, option(min=1, help="Number of shards shuffled together, of data over a million rows.")
    ] = None
    seed: Annotated[int | None, option(help="Random seed of sample order, augmentation and dropout.")] = None
    eval_every: Annotated[
        int | None, option(min=0, group=OUTPUT, help="Steps between evaluations; 0 for once per epoch.")
    ] = None
    save_every: Annotated[
        int | None, option(min=0, group=OUTPUT, help="Steps between checkpoints; 0 for once per epoch.")
    ] = None
    keep: Annotated[int | None, option(min=1, group=OUTPUT, help="Checkpoints to keep, besides the best.")] = None
    keep_state: Annotated[
        bool | None,
        option("--keep-state/--no-keep-state", group=OUTPUT, help="Keep checkpoints and optimizer state at the end."),
    ] = None
    device: Annotated[str | None, option(group=DEVICE, help="auto, cpu, cuda or cuda:N.")] = None
    dtype: Annotated[str | None, option(group=DEVICE, help="auto, fp32 or bf16; weights stay fp32.")] = None
    threads: o.Threads = None
    workers: Annotated[int | None, option(min=0, group=DEVICE, help="Processes that read images.")] = None
    strategy: Annotated[str | None, option(group=DEVICE, help="ddp (replicate the model) or fsdp (shard it).")] = None
    compile: Annotated[
        bool | None, option("--compile/--no-compile", group=DEVICE, help="Compile the model with torch.compile.")
    ] = None

    def values(self) -> dict[str, Any]:
        """Return the flags by field. Raises `UsageError` for weights that are not whole numbers."""
        if self.mix is None:
            return vars(self)
        weights = [weight.strip() for weight in self.mix.split(",")]
        if not all(weight.isdecimal() for weight in weights):
            raise UsageError(f"--mix {self.mix}; must be whole numbers such as 1,2, one for each --data")
        return {**vars(self), "mix": [int(weight) for weight in weights]}


@command
def train(
    *,
    task: Annotated[
        str | None, argument("[TASK]", help=f"{', '.join(TASKS)}; --config may name it.", complete=lambda: tuple(TASKS))
    ] = None,
    data: Data = (),
    val: Annotated[
        tuple[str, ...],
        option(
            metavar="SPEC",
            help="Data to evaluate on, a share (10%), or none.",
            default="auto",
            complete=o.dataset_names,
        ),
    ] = (),
    recipe: ConfigFlags,
    model: TaskFlags,
    loop: LoopFlags,
    columns: o.Columns,
    output: Annotated[
        Path | None, option("-o", "--output", metavar="DIR", group=OUTPUT, help="Folder of the run.")
    ] = None,
    resume: Annotated[str, option(metavar="PATH", group=OUTPUT, help="auto, none or a checkpoint to resume.")] = "auto",
    gpus: Annotated[
        str | None, option(metavar="N", group=DEVICE, help="Number of GPUs, or all: one process each.")
    ] = None,
    quiet: o.Quiet = False,
) -> int:
    """Train a model.

    Example: blip train caption --data photos/ --init caption-base -o runs/mine
    """
    from blip.io.formats import require_folder

    if recipe.list:
        return _list_presets()
    flags = {
        "task": task,
        "data": list(data) or None,
        "val": list(val) or None,
        **model.values(),
        **{f"train.{name}": value for name, value in loop.values().items()},
        **{f"reading.{name}": value for name, value in columns.reading().items()},
    }
    values = _merge(recipe, flags)
    if not values.get("task"):
        raise UsageError("no task; must be 'blip train TASK' or --config with one ('blip train --list' shows presets)")
    if not values.get("data"):
        from blip.tasks import task_class

        columns_needed = task_class(values["task"]).info.columns
        raise UsageError(f"no data; give --data FOLDER or a file with columns {columns_needed}")
    if output is None and not recipe.print_config:
        raise UsageError("no folder for the run; give -o RUN_DIR")
    if output is not None:
        require_folder(output)
    chosen = _complete(values, recipe)
    if gpus is not None:
        _launch(gpus)
    return _fit(values, recipe, output, resume, quiet, chosen)


def _merge(recipe: ConfigFlags, flags: dict[str, Any]) -> dict[str, Any]:
    """Return the config with the flags in it; --epochs replaces steps and vice versa."""
    from blip.train.config_sources import merge_config

    values = merge_config(recipe.config, {}, recipe.set)
    if flags["task"] and values.get("task") not in (None, flags["task"]):
        raise UsageError(f"task '{flags['task']}'; --config {recipe.config} is for '{values['task']}'")
    if flags["train.epochs"] is not None and flags["train.steps"] is not None:
        raise UsageError("--epochs with --steps; must be one of the two")
    single = {k: v[0] for k, v in flags.items() if isinstance(v, list) and len(v) == 1 and k != "tune.freeze"}
    values = merge_config(recipe.config, {**flags, **single}, recipe.set)
    loop = values.setdefault("train", {})
    if flags["train.steps"] is not None:
        loop.pop("epochs", None)
    elif flags["train.epochs"] is not None:
        loop.pop("steps", None)
    return values


def _complete(values: dict[str, Any], recipe: ConfigFlags) -> str | None:
    """Replace the names of data sets by files; without --config, also set the defaults of fine-tuning.

    Returns the model to start from if it was set here.
    """
    from blip.train.config_sources import resolve_data
    from blip.train.fine_tune import DECLINED, fine_tune_defaults

    if not recipe.print_config:
        resolve_data(values)
    bundled = o.ANSWERER if values["task"] == "vqa" else o.BUNDLED
    chosen = fine_tune_defaults(values, o.model_name(None, bundled)) if recipe.config is None else None
    if values.get("val") == DECLINED:
        values["val"] = None
    return chosen


def _fit(
    values: dict[str, Any],
    recipe: ConfigFlags,
    output: Path | None,
    resume: str,
    quiet: bool,
    chosen: str | None,
) -> int:
    from blip.tasks import build_task
    from blip.train import TrainConfig, fit
    from blip.train.checkpoints import RunFolder
    from blip.train.config_sources import at_line, effective_config
    from blip_lite.config import from_values

    try:
        loop = from_values(TrainConfig, values.get("train", {}), "train.")
        task = build_task(values["task"], {k: v for k, v in values.items() if k not in ("task", "train")})
    except ConfigError as error:
        raise at_line(error, recipe.config) from error
    if recipe.print_config or output is None:
        print(effective_config(task, loop), end="")
        return 0
    if chosen in o.BETTER and RunFolder(output).is_new:
        better, size = o.BETTER[chosen]
        o.note(
            f"starting from the bundled model '{chosen}'; published ones are far better: --init {better} ({size})",
            quiet,
        )
    result = fit(task, loop, output, resume=resume, quiet=quiet)
    if int(os.environ.get("RANK", "0")) == 0:
        o.note(_summary(result, f"blip {task.info.usage} -m {output}"), quiet)
    return EXIT_CODES[result.reason]


def _summary(result: TrainingResult, usage: str) -> str:
    """Return the last line of a run: how it ended and the command that uses or continues it."""
    if result.reason == "finished":
        return f"{result.total_steps} steps done; {usage}"
    stopped = f"stopped at step {result.step} of {result.total_steps}"
    if result.reason == "no improvement":
        since = f"step {result.best_step}" if result.best_step else "the start"
        return f"{stopped}: no improvement since {since}, which is kept; {usage}"
    return f"{stopped} ({result.reason}); run the same command again to resume"


def _list_presets() -> int:
    from blip.tasks.presets import PRESETS

    for name, preset in PRESETS.items():
        print(f"{name:<24}{preset.task:<17}{preset.doc}")
    return 0


def _launch(gpus: str) -> None:
    """Replace this process by torchrun, which runs this command without --gpus in one process per GPU."""
    import torch

    available = torch.cuda.device_count()
    if gpus != "all" and not (gpus.isdigit() and int(gpus) > 0):
        raise UsageError(f"--gpus {gpus}; must be a number from 1 or 'all'")
    count = available if gpus == "all" else int(gpus)
    if count > available or not available:
        raise EnvironmentProblem(f"--gpus {gpus}; this machine has {available}")
    start = next(i for i, arg in enumerate(sys.argv) if arg.startswith("--gpus"))
    end = start + (1 if "=" in sys.argv[start] else 2)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m", "blip"]
    os.execv(sys.executable, [sys.executable, *launcher, *sys.argv[1:start], *sys.argv[end:]])
