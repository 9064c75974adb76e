"""Units of settings, as ``facegan recipes show`` prints them. Those that are not here are names or bare numbers."""

from __future__ import annotations

UNITS: dict[str, dict[str, str]] = {
    "prep": {
        "limit": "photographs",
        "workers": "processes",
        "size": "px",
        "margin": "×",
        "min_score": "0 to 1",
        "min_face": "px",
        "blur": "grey levels²",
        "max_outside": "share of 1",
        "shard_size": "photographs",
    },
    "train": {
        "workers": "threads",
        "width": "channels",
        "width_d": "channels",
        "latent": "numbers",
        "images": "images",
        "batch": "images",
        "accumulate": "parts",
        "penalty_every": "steps",
        "d_steps": "steps",
        "g_steps": "steps",
        "d_head_start": "images",
        "g_head_start": "images",
        "lr_g": "per step",
        "lr_d": "per step",
        "beta1": "per step",
        "beta2": "per step",
        "momentum": "per step",
        "ema_images": "images",
        "plateau_images": "images",
        "began_rate": "per step",
        "save_every": "images",
        "sample_every": "images",
        "log_every": "images",
        "keep": "checkpoints",
        "milestones": "images",
    },
}
