"""An AWS on your laptop: it deploys the synthesized template and runs the real state machines. Itself never deployed."""
