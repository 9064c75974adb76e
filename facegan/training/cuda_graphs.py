"""Rounds recorded as CUDA graphs: the GPU gets one command a round instead of some thousand.

`torch.cuda.make_graphed_callables` has no double backward, which the gradient penalty needs; so a whole round is
captured by hand, one graph for each kind of round.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from facegan.config import TrainConfig
from facegan.training.optim import NetOptimizer
from facegan.training.step import GanStep, StepVariant

_WARM_UP = 3  # rounds: cuDNN looks for kernels, autograd and NCCL make what they keep
_MOST_KINDS = 16


def graphs_disabled_reason(config: TrainConfig, learner: NetOptimizer) -> str:
    """Why rounds are not recorded, as the end of a sentence; empty where they are."""
    if not config.graphs:
        return "--no-graphs"
    if learner.device.type != "cuda":
        return f"they need an NVIDIA GPU, and the device is {learner.device}"
    if not learner.records:
        return f"the optimizer {config.optimizer} waits for the GPU at each step in fp16"
    if len({StepVariant.of(config, number) for number in range(min(config.penalty_every, 1000))}) > _MOST_KINDS:
        return f"penalty_every {config.penalty_every} beside d_steps {config.d_steps} makes too many kinds of rounds"
    return ""


class CudaGraphCache:
    """Recordings of ``work``, made when a kind of round first comes; ``state`` gives the tensors that rounds change."""

    def __init__(self, work: GanStep, state: Callable[[], dict[str, Tensor]]) -> None:
        self._work, self._state = work, state
        self._graphs: dict[StepVariant, torch.cuda.CUDAGraph] = {}
        self._stream = torch.cuda.Stream(work.device)
        self._pool = torch.cuda.graph_pool_handle()  # one for all graphs: they run one after the other

    def prepare(self, kind: StepVariant) -> str:
        """Records the kind where that is still to be done. Returns why it can't be, or an empty string."""
        if kind in self._graphs:
            return ""
        before, stream = Snapshot(self._work, self._state()), torch.cuda.current_stream(self._work.device)
        try:
            self._warm_up(kind)  # what fails here fails in plain rounds as well
            return self._capture(kind)
        finally:
            torch.cuda.set_stream(stream)  # torch stays on the other one where a capture fails at its end
            before.restore()

    def has(self, kind: StepVariant) -> bool:
        return kind in self._graphs

    def close(self) -> None:
        """Gives up the recordings and their memory; NCCL waits for those that hold all-reduces."""
        for graph in self._graphs.values():
            graph.reset()
        self._graphs.clear()

    def play(self, kind: StepVariant) -> None:
        self._graphs[kind].replay()

    def _capture(self, kind: StepVariant) -> str:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads (decoding, pinned memory) may call CUDA meanwhile: their calls are not part of it.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                self._work(kind)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            return str(error).strip().partition("\n")[0].rstrip(".")
        self._graphs[kind] = graph
        return ""

    def _warm_up(self, kind: StepVariant) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._work.device))
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UP):
                self._work(kind)
        torch.cuda.current_stream(self._work.device).wait_stream(self._stream)


class Snapshot:
    """Copies of all that rounds change: warming up must leave no trace, neither at the start nor on resume."""

    def __init__(self, work: GanStep, state: dict[str, Tensor]) -> None:
        self._learners = (work.g, work.d)
        self._tensors = [(tensor, tensor.clone()) for tensor in state.values()]
        self._scalers = [learner.scaler.state_dict() for learner in self._learners]
        self._device = work.device
        self._random = torch.cuda.get_rng_state(work.device) if work.device.type == "cuda" else None

    @torch.no_grad()
    def restore(self) -> None:
        """In place: recordings know tensors by where they lie."""
        for tensor, copy in self._tensors:
            tensor.copy_(copy)
        for learner, state in zip(self._learners, self._scalers, strict=True):
            learner.scaler.load_state_dict(state)
        if self._random is not None:
            torch.cuda.set_rng_state(self._random, self._device)
