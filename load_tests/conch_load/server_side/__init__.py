"""The server's own figures over the window of a run: its metrics and Triton's statistics of each model.

``Watch`` samples them into ``server.jsonl`` while a run goes on, in a thread of the process that waits for Locust, not
inside Locust; ``summarize`` makes of that what a report shows.
"""

from conch_load.server_side.summary import summarize
from conch_load.server_side.watch import Sources, Watch, sources_of

__all__ = ["Sources", "Watch", "sources_of", "summarize"]
