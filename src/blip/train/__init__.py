"""The one training loop: `fit(task, config, run_dir)`. What is trained is a value of `blip.tasks`."""

from blip.train.config import TrainConfig
from blip.train.loop import fit

__all__ = ["TrainConfig", "fit"]
