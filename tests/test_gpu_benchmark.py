"""The benchmark for GPUs: exact counts of operations, and the whole command on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import scale
from benchmarks.gpu import operations
from benchmarks.gpu.session import Session
from benchmarks.gpu.table import table
from blip.model.blip import BlipModel
from blip_lite.config import BlipConfig, Family, published_config, with_image_size

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("size", "vision"), [("base", scale.VISIONS[0]), ("large", scale.VISIONS[1])])
def test_counts_equal_those_of_the_plan_for_many_images(size: str, vision: scale.Vision) -> None:
    config = published_config("caption", size)  # type: ignore[arg-type]
    assert operations.vision(config) + operations.keys_values(config) == scale.encode(vision)
    assert operations.token(config, 20) == scale.text_token(20)
    assert operations.generated(config, 4, 1).read == scale.image_reads()


def config_of(family: Family) -> BlipConfig:
    config = with_image_size(published_config(family), 64)
    vision = replace(config.vision, width=96, num_heads=3, mlp_width=192, num_layers=3)
    return replace(config, vision=vision, text=replace(config.text, width=64, num_heads=2, mlp_width=128, num_layers=3))


def test_counts_equal_the_operations_of_the_networks() -> None:
    config = config_of("pretrain")
    model = BlipModel(config).eval().to("meta")
    pixels = torch.empty(2, 3, 64, 64, device="meta")
    ids = torch.empty(2, 7, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        embeds = model.encode_image(pixels)
        assert counter.get_total_flops() == 2 * operations.vision(config)
    with FlopCounterMode(display=False) as counter:
        model.decode(ids, None, embeds)
        image = operations.keys_values(config)
        text = 7 * (operations.token(config, 7) + operations.head(config))
        assert counter.get_total_flops() == 2 * (image + text)
    with FlopCounterMode(display=False) as counter:
        model.encode_text(ids)
        assert counter.get_total_flops() == 2 * 7 * operations.token(config, 7, cross=False)


def test_work_of_the_published_sizes() -> None:
    base = published_config("caption")
    billions = {
        "beam 3": operations.caption(base, 4, 3).operations,
        "pre-training": operations.pretraining(published_config("pretrain"), 30).operations,
        "capfilt": operations.capfilt(base, published_config("retrieval"), 4, 34).operations,
    }
    # derivations on paper, rounded at each term: 143, 257 and 267 GFLOP
    assert {name: round(value / 1e9) for name, value in billions.items()} == {
        "beam 3": 144,
        "pre-training": 256,
        "capfilt": 268,
    }


@pytest.mark.slow
def test_the_command_passes_its_checks_on_a_cpu_and_prints_the_table_last(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "gpu", "--device", "cpu", "--minutes", "20", "-o", str(tmp_path)]
    result = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OUT": str(tmp_path / "out")}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    records = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    checks = [record for record in records if "ok" in record]
    assert len(checks) > 25 and all(record["ok"] for record in checks)
    assert {record["section"].split()[0] for record in checks} >= {
        "captions",
        "paths",
        "matching",
        "training",
        "resume",
    }
    measured = {record["section"] for record in records if record.get("side") == "ours" and "rate" in record}
    text = (tmp_path / "gpu.md").read_text()
    assert result.stdout.endswith(text + "\n")
    for title in ("captions/s, beam 3", "CapFilt images/s", "pre-training images/s"):
        assert title in measured and f"| {title} | " in text
    assert (tmp_path / "out/gpu.jsonl").read_text() == (tmp_path / "gpu.jsonl").read_text()


def test_a_section_that_fails_or_takes_too_long_does_not_end_the_run(tmp_path: Path) -> None:
    session = Session(torch.device("cpu"), True, 1.0, [tmp_path / "gpu.jsonl"])

    def fail() -> None:
        raise ValueError("sizes differ")

    def hang() -> None:
        try:
            time.sleep(60)
        except Exception:
            time.sleep(60)

    session.run("fails", fail, 1.0, 30)
    session.run("hangs", hang, 1.0, 0.2)
    session.run("late", fail, 0.0, 30)
    session.run("works", lambda: session.write("works", operations=2e9, read=0.0), 1.0, 30)
    session.write("works", side="ours", batch=2, rate=300.0)
    session.write("limits", operations=1e12, bandwidth=1e11, vendor_operations=2e12, vendor_bandwidth=1e12)
    assert [(r["section"], r["ok"]) for r in session.records if "ok" in r] == [
        ("fails", False),
        ("hangs", None),
        ("late", None),
    ]
    assert session.records[0]["note"] == "ValueError: sizes differ"
    text = table(session)
    assert "checks: 0 passed, 1 failed, 2 not run or stopped" in text
    assert "| works | 300 | 2 | 500 | 60% | yes | 1,000 | 30% |" in text
