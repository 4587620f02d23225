"""Pretrain the bundled tiny CLIP from nothing: draw captioned pictures, train contrastively, save in half precision.

    python scripts/pretrain_tiny_clip.py --out workers/models/weights

One CPU thread and about ten minutes on a free core. The four styles of `shapes` are never drawn here. The last step
is kept; there is no picking among checkpoints.
"""

import argparse
import json
import math
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save
from tiny_clip_corpus import pair

from workers.models.tiny import MEAN, STD

ARCHITECTURE = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
PAIRS, STEPS, BATCH, SEED = 40_000, 4_500, 128, 0
LR, WARM_UP, LAST_LR, DECAY, CLIP = 2e-3, 100, 0.02, 0.1, 1.0
NORM = 10.0
"""Mean norm of the image features of OpenAI's CLIP, for which the methods' learning rates are made."""


@dataclass(frozen=True)
class Corpus:
    """images uint8 (N, 3, 64, 64); tokens int64 (M, 24) of the distinct captions; caption int64 (N,), their rows."""

    images: torch.Tensor
    tokens: torch.Tensor
    caption: torch.Tensor


def main() -> None:
    arguments = argparse.ArgumentParser(description="Pretrain the bundled tiny CLIP.")
    arguments.add_argument("--out", type=Path, required=True, help="folder for tiny.json and tiny.safetensors")
    arguments.add_argument("--steps", type=int, default=STEPS)
    arguments.add_argument("--pairs", type=int, default=PAIRS)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    started = time.monotonic()
    model = new_model(given.out)
    corpus = draw(given.pairs)
    say(f"{given.pairs} pairs, {len(corpus.tokens)} distinct captions, {time.monotonic() - started:.0f} s")
    train(model, corpus, given.steps)
    norm = calibrate(model, corpus)
    rows = store(model, corpus, given.out / "tiny.safetensors")
    say(f"scale {model.logit_scale.exp().item():.2f}, norm was {norm:.1f}, {rows} token rows in use")
    say(f"done in {time.monotonic() - started:.0f} s, {time.process_time():.0f} CPU seconds without the drawing")


def say(text: str) -> None:
    print(text, flush=True)


def new_model(out: Path) -> Any:
    """The untrained model; its architecture is written to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "tiny.json").write_text(json.dumps(ARCHITECTURE, indent=2) + "\n")
    open_clip.add_model_config(out / "tiny.json")
    return open_clip.create_model("tiny")


def one(index: int) -> tuple[NDArray[np.uint8], str]:
    return pair(SEED, index)


def draw(count: int) -> Corpus:
    """The corpus, drawn by two processes."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pairs = pool.map(one, range(count), chunksize=250)
    texts = sorted({text for _, text in pairs})
    row = {text: k for k, text in enumerate(texts)}
    images = torch.from_numpy(np.stack([image for image, _ in pairs])).permute(0, 3, 1, 2).contiguous()
    tokens = open_clip.get_tokenizer("tiny")(texts)
    return Corpus(images, tokens, torch.tensor([row[text] for _, text in pairs]))


def train(model: Any, corpus: Corpus, steps: int) -> None:
    """AdamW with warm-up and a cosine; the image tower in bfloat16."""
    model.train()
    model.visual = model.visual.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(parameter_groups(model), lr=LR, betas=(0.9, 0.98), eps=1e-6)
    order = np.random.default_rng(SEED)
    queue = np.empty(0, dtype=np.int64)
    mean, started = 0.0, time.monotonic()
    for step in range(steps):
        if len(queue) < BATCH:
            queue = order.permutation(len(corpus.images))
        chosen, queue = torch.from_numpy(queue[:BATCH]), queue[BATCH:]
        for group in optimiser.param_groups:
            group["lr"] = LR * rate(step, steps)
        loss = contrast(model, corpus, chosen)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        mean += loss.item() / 100
        if step % 100 == 99:
            say(f"step {step + 1} loss {mean:.3f} {(time.monotonic() - started) / (step + 1):.3f} s/step")
            mean = 0.0


def parameter_groups(model: Any) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels only."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    return [
        {"params": decayed, "weight_decay": DECAY},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]


def rate(step: int, steps: int) -> float:
    """Share of the learning rate: linear up, then a cosine down to LAST_LR at the last step."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    progress = (step - WARM_UP) / max(1, steps - 1 - WARM_UP)
    return LAST_LR + (1 - LAST_LR) * 0.5 * (1 + math.cos(math.pi * progress))


def contrast(model: Any, corpus: Corpus, chosen: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE of a batch; pairs with the same caption share the target equally."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = model.encode_image(augment(corpus.images[chosen]).to(memory_format=torch.channels_last))
    rows, which = torch.unique(corpus.caption[chosen], return_inverse=True)
    texts = F.normalize(model.encode_text(corpus.tokens[rows]), dim=1)[which]
    logits = model.logit_scale.exp() * F.normalize(images.float(), dim=1) @ texts.T
    same = (which[:, None] == which[None, :]).float()
    target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def augment(images: torch.Tensor) -> torch.Tensor:
    """Mirrored, zoomed, shifted, at 32 pixels, normalised: uint8 (B, 3, 64, 64) -> float32 (B, 3, 32, 32)."""
    n = len(images)
    zoom, mirror = 1 + 0.15 * (2 * torch.rand(n) - 1), 1 - 2 * (torch.rand(n) < 0.5).float()
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = zoom * mirror, zoom
    theta[:, :, 2] = 0.12 * (2 * torch.rand(n, 2) - 1)
    grid = F.affine_grid(theta, [n, 3, 32, 32], align_corners=False)
    return normal(F.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=False))


def normal(images: torch.Tensor) -> torch.Tensor:
    """From 0..255 to CLIP's mean and deviation."""
    return (images / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@torch.no_grad()
def calibrate(model: Any, corpus: Corpus) -> float:
    """Scale the image projection so that features have mean norm NORM; cosines stay. Returns the norm before."""
    model.eval()
    images = F.interpolate(corpus.images[:1000].float(), 32, mode="bicubic", antialias=True)
    norm = float(model.encode_image(normal(images.clamp(0, 255))).norm(dim=1).mean())
    for parameter in model.visual.attnpool.c_proj.parameters():
        parameter.mul_(NORM / norm)
    return norm


def store(model: Any, corpus: Corpus, path: Path) -> int:
    """Half precision, with the rows of tokens that no caption has set to zero. Returns how many are in use."""
    tensors = {name: t.detach().contiguous() for name, t in model.state_dict().items()}
    used = torch.unique(corpus.tokens)
    table = torch.zeros_like(tensors["token_embedding.weight"])
    table[used] = tensors["token_embedding.weight"][used]
    tensors["token_embedding.weight"] = table
    halves = {n: (t.half() if t.is_floating_point() else t).contiguous() for n, t in tensors.items()}
    path.with_suffix(".part").write_bytes(save(halves))
    os.replace(path.with_suffix(".part"), path)
    return len(used)


if __name__ == "__main__":
    main()
