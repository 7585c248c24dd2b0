"""vllm/v1/metrics/loggers.py."""

from __future__ import annotations

from abc import ABC, abstractmethod

from vllm.v1.metrics.stats import SchedulerStats


class StatLoggerBase(ABC):
    """Told of every step."""

    @abstractmethod
    def __init__(self, vllm_config: object, engine_index: int = 0) -> None: ...

    @abstractmethod
    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: object | None,
        mm_cache_stats: object | None = None,
        engine_idx: int = 0,
    ) -> None: ...

    @abstractmethod
    def log_engine_initialized(self) -> None: ...
