"""The processor, versions and commit that a measurement belongs to."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).parent.parent
MEASURED = ("src", "lite", "benchmarks")  # what the times depend on


def machine() -> dict[str, str]:
    """Processor and its instructions, threads, versions."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    flags = [f for f in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16") if f in info]
    return {
        "processor": f"{processor()}, {torch.get_num_threads()} threads; {' '.join(flags)}",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
    }


def processor() -> str:
    """Name, family and model of the processor."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    lines = dict(line.split("\t", 1) for line in info.splitlines() if "\t" in line)
    name = next((v.split(":", 1)[1].strip() for k, v in lines.items() if k == "model name"), platform.processor())
    family, model = (lines.get(key, "").split(":")[-1].strip() for key in ("cpu family", "model"))
    return f"{name} (family {family}, model {model})"


def commit() -> str:
    """Short hash of the commit, with "+" if files that times depend on differ from it; "" without a repository."""

    def git(*arguments: str) -> str:
        call = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
        return call.stdout.strip()

    results = "benchmarks/results.json", "benchmarks/RESULTS.md"
    changed = git("status", "--porcelain", "--", *MEASURED, *(f":!{path}" for path in results))
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
