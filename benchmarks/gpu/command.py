"""Checks correctness on a GPU, then measures rates, and prints them as a table last.

    python -m benchmarks gpu --minutes 8 [-o FOLDER]

`--device cpu` runs the same on a CPU with networks of a few layers. Every result is a JSON line on the standard output
and in gpu.jsonl; the table is also written to gpu.md, both in FOLDER and in $OUT if that is set. Needs torch, numpy,
pillow, safetensors, tokenizers, huggingface_hub, filelock, packaging, pyyaml and, for the check of resuming, omegaconf.
Transformers is compared if it is installed. The exit status is 1 if something failed.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from benchmarks.gpu.session import Session

CHECKS_UNTIL = 0.45  # share of the time; the rates have the rest. Without a GPU the checks matter more
CHECKS_UNTIL_ON_CPU = 0.8
ROWS_UNTIL = 0.97


def main(arguments: list[str]) -> int:
    session = _session(arguments)
    import torch._dynamo  # of optimizers; an import that a time limit interrupts fails ever after

    from benchmarks.gpu import checks, machine, rates, table, training_checks  # after the options: they take seconds

    _settings()
    name = machine.device_name(session.device)
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "transformers": rates.peer_version()}
    session.write("machine", device=name, small=session.small, minutes=session.minutes, **versions)
    checks_until = CHECKS_UNTIL if session.is_cuda else CHECKS_UNTIL_ON_CPU
    for section, check in {**checks.sections(session), **training_checks.sections(session)}.items():
        session.run(section, check, checks_until, 40 * session.minutes / 8 + 20)
    session.run("limits", lambda: _limits(session), ROWS_UNTIL, 30)
    rows = rates.rows(session)
    for number, row in enumerate(rows):
        share = checks_until + (ROWS_UNTIL - checks_until) * (number + 1) / len(rows)
        session.run(row.title, row.measure, share, 3600)
    text = table.table(session)
    for path in session.files:
        path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    return 1 if session.failures() else 0


def _session(arguments: list[str]) -> Session:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="limit of the whole run; default 8")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu; default cuda")
    parser.add_argument("-o", "--output", type=Path, help="folder for gpu.jsonl and gpu.md")
    options = parser.parse_args(arguments)
    if options.minutes <= 0:
        parser.error(f"--minutes {options.minutes}: must be above 0")
    try:
        device = torch.device(options.device)
    except RuntimeError:
        parser.error(f"--device {options.device}: must be cuda, cuda:N or cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: there is no GPU here; --device cpu runs small networks")
    folders = [options.output] if options.output else []
    folders += [Path(os.environ["OUT"])] if os.environ.get("OUT") else []
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gpu.jsonl").unlink(missing_ok=True)
    return Session(device, device.type != "cuda", options.minutes, [folder / "gpu.jsonl" for folder in folders])


def _settings() -> None:
    """float32 is exact in the checks: no convolutions and matrix products in TF32."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def _limits(session: Session) -> None:
    from benchmarks.gpu import machine

    measured, name = machine.measure(session), machine.device_name(session.device)
    vendor = machine.vendor_rates(name)
    stated = {} if vendor is None else {"vendor_operations": vendor.operations, "vendor_bandwidth": vendor.bandwidth}
    session.write("limits", operations=measured.operations, bandwidth=measured.bandwidth, **stated)
