"""Check the installation: what facegan needs, what it finds, and the command that fixes what is missing."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from facegan import system
from facegan.errors import ModelError
from facegan.faces.detect import find_model
from facegan.files import human_bytes
from facegan.manifests import known_models

_PACKAGES = (
    "torch", "torchvision", "mediapipe", "numpy", "pillow", "simplejpeg", "pyarrow", "webdataset", "safetensors",
    "tensorboard", "matplotlib", "pydantic", "typer", "rich",
)  # fmt: skip
_OPENCV = ("opencv-contrib-python", "opencv-python", "opencv-python-headless", "opencv-contrib-python-headless")
_EXTRAS = {
    "ray": "prep --engine ray",
    "s3": "s3:// URLs",
    "http": "http:// and https:// URLs",
    "gs": "gs:// URLs",
    "hf": "hf:// URLs, export --push",
    "onnx": "export --onnx, report --explore",
    "video": "sample to .mp4",
    "heic": "HEIC photographs",
    "wandb": "train --log wandb",
    "mlflow": "train --log mlflow",
}
_LIBRARIES = {"GL": "libgl1", "glib-2.0": "libglib2.0-0", "EGL": "libegl1", "GLESv2": "libgles2"}


@dataclass(frozen=True)
class Finding:
    """One row: the thing checked, what was found, whether facegan can work with it, and the command that fixes it."""

    what: str
    found: str
    ok: bool = True
    remedy: str = ""


def examine() -> list[Finding]:
    """Check everything that facegan depends on."""
    is_new = sys.version_info >= (3, 11)
    return [
        Finding("Python", platform.python_version(), is_new, "" if is_new else "install Python 3.11 or newer"),
        *_hardware(),
        *map(_package, _PACKAGES),
        _opencv(),
        *(_library(name, package) for name, package in _LIBRARIES.items()),
        _mediapipe_loads(),
        *_models(),
        *_extras(),
    ]


def _hardware() -> Iterator[Finding]:
    found = f"{system.cpu_name()}, {system.usable_cpus()} of {os.cpu_count()} usable"
    if (quota := system.cpu_quota()) < system.affinity_cpus():
        found += f" (the control group's quota is {quota:g})"
    yield Finding("CPU", found)
    free = human_bytes(system.available_bytes())
    yield Finding("memory", f"{human_bytes(system.memory_bytes())}, {free} available")
    yield Finding("workers of prep", f"{system.prep_workers()}, of {human_bytes(system.PREP_WORKER_BYTES)} each")
    try:
        import torch
    except ImportError:
        yield Finding("GPU", "unknown: torch does not import")
        return
    yield Finding("threads of training", str(torch.get_num_threads()))
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    gpus = f"{', '.join(names)} (CUDA {torch.version.cuda})" if names else "none: training runs on the CPU"
    yield Finding("GPU", gpus)


def _package(name: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "not installed", False, f"{sys.executable} -m pip install {name}")


def _opencv() -> Finding:
    """All opencv packages write into one folder, cv2: two of them damage each other."""
    installed = [found for name in _OPENCV if (found := _package(name)).ok]
    text = " and ".join(f"{package.what} {package.found}" for package in installed)
    if len(installed) == 1:
        return Finding("opencv", text)
    remedy = f"{sys.executable} -m pip install --force-reinstall --no-deps {_OPENCV[0]}"
    if installed:
        names = " ".join(package.what for package in installed)
        remedy = f"{sys.executable} -m pip uninstall -y {names} && {remedy}"
    return Finding("opencv", text or "not installed", False, remedy)


def _library(name: str, package: str) -> Finding:
    found = ctypes.util.find_library(name) or ("not needed here" if platform.system() != "Linux" else "")
    return Finding(f"system library {package}", found or "not found", bool(found), "" if found else _apt_command())


def _apt_command() -> str:
    """Installs OpenCV's and MediaPipe's system libraries on Debian and its relatives."""
    root = "" if hasattr(os, "geteuid") and os.geteuid() == 0 else "sudo "
    return f"{root}apt-get install -y {' '.join(_LIBRARIES.values())}"


def _mediapipe_loads() -> Finding:
    """In a subprocess: a missing library may kill it by a signal."""
    code = "import cv2, mediapipe; from mediapipe.tasks.python import vision; vision.FaceDetectorOptions"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    ok = done.returncode == 0
    return Finding("cv2 and mediapipe import", "yes" if ok else why, ok, "" if ok else _apt_command())


def _models() -> Iterator[Finding]:
    for model in known_models().values():
        what = f"detector model {model.name}"
        try:
            path = find_model(model)
            # A missing model is not a fault: the first prep downloads it.
            yield Finding(what, str(path or "not downloaded yet"), True, "" if path else "facegan models pull")
        except ModelError as error:
            yield Finding(what, str(error).splitlines()[0], False, "delete it, then: facegan models pull")


def _extras() -> Iterator[Finding]:
    """Optional packages from facegan's own metadata. A missing one is not a fault."""
    try:
        requirements = importlib.metadata.requires("facegan") or []
    except importlib.metadata.PackageNotFoundError:  # run from source, not installed
        return
    for name, use in _EXTRAS.items():
        lines = [line for line in requirements if re.search(f"extra == ['\"]{name}['\"]", line)]
        ok = all(_package(re.split(r"[^\w.-]", line)[0]).ok for line in lines)
        remedy = "" if ok else f"{sys.executable} -m pip install 'facegan[{name}]'"
        yield Finding(f"extra {name}", f"{'installed' if ok else 'not installed'}: {use}", True, remedy)
