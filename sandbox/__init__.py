"""An AWS on your laptop: the synthesized template deployed, the real state machines run. Itself never deployed."""
