"""`facegan prep` against a plain loop that decodes, detects, crops squares, resizes and encodes, but writes nothing."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from facegan.bench.baseline import Bench, interleaved
from facegan.config import PrepConfig
from facegan.console import Console, counted
from facegan.errors import SourceError
from facegan.faces.detect import silence_stderr
from facegan.prep.prepare import prepare
from facegan.prep.request import find_models

_DRAWN = 1000


def bench_prep(
    photos: Path | None,
    config: PrepConfig,
    workers: int,
    limit: int | None,
    scaling: bool,
    pairs: int,
    console: Console,
) -> Bench:
    """``photos``: a folder of JPEGs; None: drawn portraits. ``scaling``: also measure prep in one process."""
    with tempfile.TemporaryDirectory() as folder:
        if photos is None:
            from facegan.demo import write_portraits

            photos = Path(folder) / "portraits"
            console.note(f"drawing {_DRAWN} portraits")
            write_portraits(photos, _DRAWN)
        model = str(find_models(PrepConfig())[0])  # the loop always detects
        paths = sorted(str(path) for path in photos.rglob("*.jpg"))[:limit]
        if not paths:
            raise SourceError(f"{photos} contains no .jpg files. Name a folder of JPEGs.")
        worker_bytes: list[int] = []

        def ours(processes: int = workers) -> float:
            with tempfile.TemporaryDirectory() as out:
                result = prepare(photos, out, config, workers=processes, limit=limit)
            worker_bytes.append(result.worker_peak_bytes)
            return result.photos_per_second

        rates = interleaved(ours, lambda: _plain_loop(paths, model, config.size, workers), pairs, console)
        notes: dict[str, Any] = {"worker_peak_mb": round(max(worker_bytes) / 1e6)}
        if scaling:
            together, alone = interleaved(ours, lambda: ours(1), pairs, console)
            gain = statistics.median(a / b for a, b in zip(together, alone, strict=True))
            notes |= {f"in_{workers}_processes": together, "in_1_process": alone, "scaling": round(gain, 3)}
    count = f"{counted(len(paths), 'photograph')}, {counted(workers, 'process')}"
    what = f"facegan prep --crop {config.crop} --detector {config.detector}, {count}"
    return Bench(what, "decode, detect, square crop, resize, encode", "photos/s", *rates, notes)


def _plain_loop(paths: list[str], model: str, size: int, workers: int) -> float:
    jobs = [(paths[i::workers], model, size) for i in range(workers)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        seconds = max(pool.map(_crop_all, jobs, chunksize=1))  # without start-up, in the loop's favour
    return len(paths) / seconds


def _crop_all(job: tuple[list[str], str, int]) -> float:
    os.environ.setdefault("GLOG_minloglevel", "3")
    import cv2
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    paths, model, size = job
    silence_stderr()
    cv2.setNumThreads(1)
    options = vision.FaceDetectorOptions(BaseOptions(model_asset_path=model), min_detection_confidence=0.5)
    with vision.FaceDetector.create_from_options(options) as detector:
        start = time.perf_counter()
        for path in paths:
            stored = cv2.imread(path)
            if stored is None:
                continue
            photo = cv2.cvtColor(stored, cv2.COLOR_BGR2RGB)
            found = detector.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=photo)).detections
            if not found:
                continue
            box = found[0].bounding_box
            x, y = max(box.origin_x, 0), max(box.origin_y, 0)
            face = cv2.resize(photo[y : y + box.height, x : x + box.width], (size, size), interpolation=cv2.INTER_AREA)
            cv2.imencode(".png", cv2.cvtColor(face, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 0])
        return time.perf_counter() - start
