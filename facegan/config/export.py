"""Settings of ``facegan export``."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from facegan.config.base import Settings


class ExportConfig(Settings):
    """What of a generator ``facegan export`` writes."""

    section: ClassVar[str] = "export"

    onnx: bool = Field(default=False, description="generator.onnx: float32, any number of latents at once")
    fp16: bool = Field(default=False, description="generator-fp16.onnx: half the size, with onnx")
    int8: bool = Field(default=False, description="generator-int8.onnx: a quarter of the size, with onnx")
    program: bool = Field(default=True, description="generator.pt2: a torch.export program")
    samples: Annotated[int, Field(gt=0, le=10_000)] = Field(default=64, description="faces in samples.png")
    compared: Annotated[int, Field(gt=0, le=100_000)] = Field(
        default=64, description="samples by which ONNX files are compared with PyTorch"
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(default=0, description="which samples")

    @property
    def with_onnx(self) -> bool:
        """The smaller files are made of the float32 one, and stand beside it."""
        return self.onnx or self.fp16 or self.int8
