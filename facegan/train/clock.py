"""Seconds of training alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Start-up, saving and sampling are left out."""

    def __init__(self, device: torch.device, seconds: float = 0.0) -> None:
        self._device, self._before = device, seconds
        self._since: float | None = None  # None while it stands still

    @property
    def seconds(self) -> float:
        return self._before + (time.perf_counter() - self._since if self._since is not None else 0.0)

    def start(self) -> None:
        self._since = time.perf_counter()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # work that is queued belongs to the training
        running, self._before, self._since = self._since is not None, self.seconds, None
        try:
            yield
        finally:
            if running:
                self.start()
