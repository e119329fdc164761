"""The web page of `blip demo`. `launch.serve` starts it; a file a tab in `tabs`, what they compute in `answers`."""
