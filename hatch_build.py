"""Metadata hook: `blip-vlm` depends on the `blip-vlm-lite` of the same version."""

from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class LiteDependency(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        metadata["dependencies"] = [f"blip-vlm-lite=={metadata['version']}", *self.config["dependencies"]]
