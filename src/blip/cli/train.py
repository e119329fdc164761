"""`blip train`: trains a task; stops and goes on at any step."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from blip.cli import options as o
from blip.cli.commands import DEVICE, OUTPUT, argument, command, option
from blip.tasks import TASKS
from blip_lite.errors import ConfigError, EnvironmentProblem, UsageError

if TYPE_CHECKING:
    from blip.train.loop import Fitted

EXIT_CODES = {"finished": 0, "no better": 0, "time": 0, "interrupted": 130, "terminated": 143}
TEXT_TOWERS = ("encoder", "decoder")
SMALL_LR = 2e-4  # for models of the size of `tiny`
TRAINING = "Training"


@command
def train(
    *,
    task: Annotated[
        str | None, argument("[TASK]", help=f"{', '.join(TASKS)}; --config may name it.", complete=lambda: tuple(TASKS))
    ] = None,
    data: Annotated[
        tuple[str, ...],
        option(
            metavar="SPEC", help="Folder, table, tar shards or known data set (repeatable).", complete=o.dataset_names
        ),
    ] = (),
    val: Annotated[
        tuple[str, ...], option(metavar="SPEC", help="Data to evaluate on, as --data.", complete=o.dataset_names)
    ] = (),
    init: Annotated[
        str | None, option(help="Model to start from: name, file or folder.", complete=o.model_names)
    ] = None,
    config: Annotated[
        str | None, option(metavar="FILE", help="YAML file (ours or the original's) or preset:NAME.")
    ] = None,
    set: Annotated[
        tuple[str, ...], option("--set", metavar="KEY=VALUE", help="Set a key of the config (repeatable).")
    ] = (),
    list_presets: Annotated[bool, option("--list", help="List the presets and exit.")] = False,
    print_config: Annotated[bool, option("--print-config", help="Print the merged config and exit.")] = False,
    epochs: Annotated[int | None, option(min=1, group=TRAINING, help="Number of epochs.")] = None,
    steps: Annotated[int | None, option(min=1, group=TRAINING, help="Optimizer steps (instead of --epochs).")] = None,
    batch_size: Annotated[
        int | None, option(min=1, group=TRAINING, help="Samples per step, over all devices.", default="estimated")
    ] = None,
    lr: Annotated[float | None, option(group=TRAINING, help="Learning rate.")] = None,
    accumulate: Annotated[int | None, option(min=1, group=TRAINING, help="Gradient accumulation steps.")] = None,
    grad_checkpoint: Annotated[
        int | None, option(min=0, group=TRAINING, help="Number of ViT blocks with activation checkpointing.")
    ] = None,
    image_size: o.ImageSize = None,
    freeze: Annotated[
        str | None, option(metavar="LIST", group=TRAINING, help="Parts to freeze: vision, text or weight names.")
    ] = None,
    lora: Annotated[
        int | None, option(min=1, group=TRAINING, help="Train only low-rank adapters of this rank.")
    ] = None,
    layer_decay: Annotated[float | None, option(group=TRAINING, help="Layer-wise learning-rate decay.")] = None,
    queue_size: Annotated[
        int | None, option(min=1, group=TRAINING, help="Size of the contrastive feature queue.")
    ] = None,
    patience: Annotated[
        int | None, option(min=1, group=TRAINING, help="Stop after N evaluations without improvement.")
    ] = None,
    seed: Annotated[
        int | None, option(group=TRAINING, help="Random seed of sample order, augmentation and dropout.")
    ] = None,
    max_minutes: Annotated[float | None, option(group=TRAINING, help="Save and stop after this time.")] = None,
    columns: o.Columns,
    output: Annotated[
        Path | None, option("-o", "--output", metavar="DIR", group=OUTPUT, help="Folder of the run.")
    ] = None,
    eval_every: Annotated[
        int | None, option(min=0, group=OUTPUT, help="Steps between evaluations; 0 for once per epoch.")
    ] = None,
    save_every: Annotated[
        int | None, option(min=0, group=OUTPUT, help="Steps between checkpoints; 0 for once per epoch.")
    ] = None,
    keep: Annotated[int | None, option(min=1, group=OUTPUT, help="Checkpoints to keep, besides the best.")] = None,
    resume: Annotated[str, option(metavar="PATH", group=OUTPUT, help="auto, none or a checkpoint to resume.")] = "auto",
    device: Annotated[str | None, option(group=DEVICE, help="auto, cpu, cuda or cuda:N.")] = None,
    dtype: Annotated[str | None, option(group=DEVICE, help="auto, fp32 or bf16; weights stay fp32.")] = None,
    threads: o.Threads = None,
    workers: Annotated[int | None, option(min=0, group=DEVICE, help="Processes that read images.")] = None,
    gpus: Annotated[
        str | None, option(metavar="N", group=DEVICE, help="Number of GPUs, or all: one process each.")
    ] = None,
    strategy: Annotated[str | None, option(group=DEVICE, help="ddp (replicate the model) or fsdp (shard it).")] = None,
    compile: Annotated[
        bool | None, option("--compile/--no-compile", group=DEVICE, help="Compile the model with torch.compile.")
    ] = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Train a model.

    Example: blip train caption --data photos/ --init caption-base -o runs/mine
    """
    if list_presets:
        return _list()
    values = _merged(
        config,
        list(set),
        {
            "task": task,
            "data": list(data) or None,
            "val": list(val) or None,
            "start.init": init,
            "start.image_size": image_size,
            "tune.freeze": None if freeze is None else _prefixes(freeze),
            "tune.lora.rank": lora,
            "tune.layer_decay": layer_decay,
            "queue_size": queue_size,
            "train.epochs": epochs,
            "train.steps": steps,
            "train.batch_size": batch_size,
            "train.lr": lr,
            "train.accumulate": accumulate,
            "train.grad_checkpoint": grad_checkpoint,
            "train.device": device,
            "train.dtype": dtype,
            "train.threads": threads,
            "train.workers": workers,
            "train.compile": compile,
            "train.eval_every": eval_every,
            "train.save_every": save_every,
            "train.keep": keep,
            "train.seed": seed,
            "train.max_minutes": max_minutes,
            "train.patience": patience,
            "train.strategy": strategy,
            **{f"reading.{name}": value for name, value in columns.reading().items()},
        },
    )
    if not values.get("task"):
        raise UsageError("no task; must be 'blip train TASK' or --config with one ('blip train --list' shows presets)")
    if not values.get("data"):
        raise UsageError("no data; give --data FOLDER or a file of image-text pairs")
    if not print_config:
        _find_named(values)
    if output is None and not print_config:
        raise UsageError("no folder for the run; give -o RUN_DIR")
    if config is None:
        _own_defaults(values, quiet)
    if gpus is not None:
        _launch(gpus)
    return _fit(values, config, output, resume, print_config, quiet)


def _fit(
    values: dict[str, Any], config: str | None, output: Path | None, resume: str, print_config: bool, quiet: bool
) -> int:
    from blip.tasks import build_task
    from blip.train import TrainConfig, fit
    from blip.train.config_sources import at_line
    from blip.train.loop import effective_config
    from blip_lite.config import from_values

    try:
        loop = from_values(TrainConfig, values.get("train", {}), "train.")
        task = build_task(values["task"], {k: v for k, v in values.items() if k not in ("task", "train")})
    except ConfigError as error:
        raise at_line(error, config) from error
    if print_config or output is None:
        print(effective_config(task, loop), end="")
        return 0
    fitted = fit(task, loop, output, resume=resume, quiet=quiet)
    if int(os.environ.get("RANK", "0")) == 0:
        o.note(_closing(task.info.usage, fitted, output), quiet)
    return EXIT_CODES[fitted.reason]


def _closing(usage: str, fitted: Fitted, folder: Path) -> str:
    use = f"blip {usage} -m {folder}"
    if fitted.reason == "finished":
        return f"{fitted.total_steps} steps done; {use}"
    stopped = f"stopped at step {fitted.step} of {fitted.total_steps}"
    if fitted.reason == "no better":
        return f"{stopped}: no better since step {fitted.best_step}, which is kept; {use}"
    return f"{stopped} ({fitted.reason}); the same command goes on"


def _merged(config: str | None, sets: list[str], flags: dict[str, Any]) -> dict[str, Any]:
    from blip.train.config_sources import merge_config

    values = merge_config(config, {}, sets)
    if flags["task"] and values.get("task") not in (None, flags["task"]):
        raise UsageError(f"task '{flags['task']}'; --config {config} is for '{values['task']}'")
    chosen = {k: v[0] if isinstance(v, list) and len(v) == 1 and k != "tune.freeze" else v for k, v in flags.items()}
    values = merge_config(config, chosen, sets)
    loop = values.setdefault("train", {})
    if flags["train.epochs"] is not None and flags["train.steps"] is not None:
        raise UsageError("--epochs with --steps; must be one of the two")
    if flags["train.steps"] is not None:
        loop.pop("epochs", None)
    elif flags["train.epochs"] is not None:
        loop.pop("steps", None)
    return values


def _own_defaults(values: dict[str, Any], quiet: bool) -> None:
    """What a run without a config starts from, and its learning rate."""
    from blip.checkpoint.locate import locate
    from blip.tasks import task_class

    rate, start = task_class(values["task"]).info.learning_rate, values.setdefault("start", {})
    if rate is None:
        return
    if start.get("init") is None:
        start["init"] = o.model_name(None)
        if start["init"] == "tiny":
            o.note("starting from the bundled model 'tiny'; published ones are far better: --init caption-base", quiet)
    loop = values.setdefault("train", {})
    if loop.get("lr") is None:
        entry = locate(start["init"]).entry
        loop["lr"] = SMALL_LR if entry is not None and entry.vit == "tiny" else rate


def _find_named(values: dict[str, Any]) -> None:
    """Puts files in the place of known sets' names (`coco`, `vqa@train+val`), with the folders of their images."""
    from blip.data.known_datasets import resolve

    roots: list[str] = []
    for key, split in (("data", "train"), ("val", "val")):
        given = values.get(key)
        if given is None:
            continue
        found = [resolve(spec, split) for spec in ([given] if isinstance(given, str) else given)]
        paths = [path for names, _ in found for path in names]
        values[key] = paths[0] if len(paths) == 1 else paths
        roots += [str(root) for _, root in found if root is not None]
    reading = values.setdefault("reading", {})
    if roots and reading.get("root") is None:
        reading["root"] = list(dict.fromkeys(roots))
    if not reading:
        del values["reading"]


def _prefixes(text: str) -> list[str]:
    return [name for part in text.split(",") for name in (TEXT_TOWERS if part.strip() == "text" else [part.strip()])]


def _list() -> int:
    from blip.tasks.presets import PRESETS

    for name, preset in PRESETS.items():
        print(f"{name:<24}{preset.task:<17}{preset.doc}")
    return 0


def _launch(gpus: str) -> None:
    """Becomes torchrun with one process a GPU, each of which runs this command without --gpus."""
    import torch

    there = torch.cuda.device_count()
    if gpus != "all" and not (gpus.isdigit() and int(gpus) > 0):
        raise UsageError(f"--gpus {gpus}; must be a number from 1 or 'all'")
    count = there if gpus == "all" else int(gpus)
    if count > there or not there:
        raise EnvironmentProblem(f"--gpus {gpus}; this machine has {there}")
    place = next(i for i, a in enumerate(sys.argv) if a.startswith("--gpus"))
    rest = sys.argv[1:place] + sys.argv[place + (1 if "=" in sys.argv[place] else 2) :]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m", "blip"]
    os.execv(sys.executable, [sys.executable, *launcher, *rest])
