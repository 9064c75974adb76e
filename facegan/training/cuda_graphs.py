"""Training steps captured as CUDA graphs: the GPU gets one command per step instead of some thousand.

`torch.cuda.make_graphed_callables` has no double backward, which the gradient penalty needs. So a whole step is
captured by hand, one graph per `StepVariant`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from facegan.config import TrainConfig
from facegan.training.optim import NetOptimizer
from facegan.training.step import GanStep, StepVariant

_WARM_UP_STEPS = 3  # cuDNN chooses kernels; autograd and NCCL allocate what they keep
_MAX_VARIANTS = 16


def graphs_disabled_reason(config: TrainConfig, optimizer: NetOptimizer) -> str:
    """Why steps are not captured, as the end of a sentence; "" where they are."""
    if not config.graphs:
        return "--no-graphs"
    if optimizer.device.type != "cuda":
        return f"they need an NVIDIA GPU, and the device is {optimizer.device}"
    if not optimizer.can_be_captured:
        return f"the optimizer {config.optimizer} waits for the GPU at each step in fp16"
    if len({StepVariant.of(config, number) for number in range(min(config.penalty_every, 1000))}) > _MAX_VARIANTS:
        return f"penalty_every {config.penalty_every} with d_steps {config.d_steps} makes too many kinds of steps"
    return ""


class CudaGraphCache:
    """One graph per variant of the step, captured when it first occurs. ``state``: the tensors that steps change."""

    def __init__(self, step: GanStep, state: Callable[[], dict[str, Tensor]]) -> None:
        self._step, self._state = step, state
        self._graphs: dict[StepVariant, torch.cuda.CUDAGraph] = {}
        self._stream = torch.cuda.Stream(step.device)
        self._pool = torch.cuda.graph_pool_handle()  # shared: the graphs run one after the other

    def has(self, variant: StepVariant) -> bool:
        return variant in self._graphs

    def prepare(self, variant: StepVariant) -> str:
        """Captures the variant. Returns why it cannot be captured, or ""."""
        before, stream = Snapshot(self._step, self._state()), torch.cuda.current_stream(self._step.device)
        try:
            self._stream.wait_stream(stream)
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UP_STEPS):
                    self._step(variant)  # an error here would occur without graphs as well
            stream.wait_stream(self._stream)
            return self._capture(variant)
        finally:
            torch.cuda.set_stream(stream)  # torch stays on the other stream where a capture fails at its end
            before.restore()

    def _capture(self, variant: StepVariant) -> str:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads (decoding, pinned memory) may call CUDA meanwhile: their calls are not captured.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                self._step(variant)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            return str(error).strip().partition("\n")[0].rstrip(".")
        self._graphs[variant] = graph
        return ""

    def replay(self, variant: StepVariant) -> None:
        self._graphs[variant].replay()

    def close(self) -> None:
        """Frees the graphs and their memory; NCCL waits for those that contain all-reduces."""
        for graph in self._graphs.values():
            graph.reset()
        self._graphs.clear()


class Snapshot:
    """Copies of all that steps change: a warm-up or a discarded step leaves no trace."""

    def __init__(self, step: GanStep, state: dict[str, Tensor]) -> None:
        self._tensors = [(tensor, tensor.clone()) for tensor in state.values()]
        self._scalers = [(net.scaler, net.scaler.state_dict()) for net in (step.g, step.d)]
        self._device = step.device
        self._random = torch.cuda.get_rng_state(step.device) if step.device.type == "cuda" else None

    @torch.no_grad()
    def restore(self) -> None:
        """In place: CUDA graphs hold the tensors' addresses."""
        for tensor, copy in self._tensors:
            tensor.copy_(copy)
        for scaler, state in self._scalers:
            scaler.load_state_dict(state)
        if self._random is not None:
            torch.cuda.set_rng_state(self._random, self._device)
