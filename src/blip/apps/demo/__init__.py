"""Web page of `blip demo`: `launch.serve` starts it, `tabs` builds its tabs, `predictions` computes their results."""
