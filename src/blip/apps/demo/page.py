"""The page: its tabs, its style, and the licences of the example photos."""

from __future__ import annotations

import gradio as gr

from blip.apps.demo import tabs
from blip.apps.demo.folder import Folders
from blip.apps.demo.models import Models
from blip.apps.demo.uploads import PHOTOS, Limits
from blip_lite.text_files import read_text

MAX_AGE_SECONDS = 3600  # of uploads and results while the page runs
CSS = """
.gradio-container > main { max-width: 1180px !important; margin: 0 auto !important; }
.pictures .grid-wrap { max-height: none !important; min-height: 0 !important; }
.pictures .grid-container { grid-template-columns: repeat(auto-fill, minmax(100px, 1fr)) !important; }
.pictures.large .grid-container { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)) !important; }
.answers * { font-family: var(--font) !important; }
.requirement { border-left: 4px solid var(--primary-500); padding: 0.25rem 0.75rem; }
.requirement .requirement { border: 0; padding: 0; }
.credit { opacity: 0.75; font-size: 0.9em; }
.scores { overflow-x: auto; }
.scores table { border: 0 !important; border-collapse: separate; border-spacing: 4px; margin: 0; }
.scores th { font-weight: 500; text-align: left; padding: 4px 8px; min-width: 6em; max-width: 16em; border: 0; }
.scores th img { max-width: 96px; max-height: 96px; border-radius: 6px; margin: 0; }
.scores td { text-align: center; padding: 8px 10px; border: 0; border-radius: 6px; min-width: 5em;
  background: color-mix(in srgb, var(--primary-400) var(--heat), var(--background-fill-secondary)); }
.scores td small { display: block; opacity: 0.75; }
@media (max-width: 640px) {
  .scores thead th:first-child { min-width: 5em; }
  .scores th img { max-width: 64px; max-height: 64px; }
}
"""
TABS = {
    "Captions": tabs.captions,
    "Questions": tabs.questions,
    "Matching": tabs.matching,
    "Two photos": tabs.two_photos,
    "Features": tabs.features,
}
INTRO = """# BLIP
Captions, questions, matching and search.
Everything is computed on the machine that serves this page; nothing is sent elsewhere.
"""


def build(models: Models, limits: Limits, folders: Folders | None) -> gr.Blocks:
    """Return the page, not yet served. folders: which folders may be searched; None disables search."""
    delete_cache = (MAX_AGE_SECONDS // 6, MAX_AGE_SECONDS)
    page: gr.Blocks = gr.Blocks(title="BLIP", analytics_enabled=False, delete_cache=delete_cache, fill_width=True)
    with page:
        gr.Markdown(INTRO)
        for title, add_tab in TABS.items():
            with gr.Tab(title):
                add_tab(models, limits)
        with gr.Tab("Search"):
            tabs.search(models, limits, folders)
        with gr.Accordion("Example photos: source and licence", open=False):
            gr.Markdown(read_text(PHOTOS / "README.md").partition("\n\n")[2])
    return page


def theme() -> gr.themes.Base:
    """Return a theme with the fonts of the machine that displays the page; none are downloaded."""
    return gr.themes.Default(
        primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
