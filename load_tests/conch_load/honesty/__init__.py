"""Whether the figures of a run may be used: the generator's own limits, token counts, answers under load."""
