"""How much memory a model takes on each GPU, and how many tokens fit beside it: arithmetic, no GPU needed.

``architecture`` reads a config.json, ``deployment`` says how it is served, ``gpus`` on what; ``planner`` adds up.
The formulas and their sources: docs/memory_planner.md.
"""
