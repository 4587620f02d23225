"""A text tower whose first words are given as embeddings, so that gradients reach them.

Knows a CLIP of open_clip and its tokenizer. Must not know classes, prompts or who learns.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from schemas.errors import ConfigError


def embeddings(model: Any, tokenizer: Any, text: str) -> torch.Tensor:
    """The token embeddings of a text without its start and end: float32 (M, W) on CPU. Raises ConfigError."""
    table = _table(model, tokenizer)
    tokens = tokenizer([text])[0]
    end = int((tokens == tokenizer.eot_token_id).nonzero()[0])
    with torch.no_grad():
        found: torch.Tensor = table(tokens[1:end].to(table.weight.device)).float().cpu()
    return found


def encode(model: Any, tokenizer: Any, texts: Sequence[str], context: torch.Tensor) -> torch.Tensor:
    """Features of N texts, in which the M tokens behind the start are these embeddings instead of their own.

    context: float32 (M, W), which gradients reach. Returns float32 (N, D) on CPU, raw. Raises ConfigError.
    """
    table = _table(model, tokenizer)
    with _replaced(table, context):
        rows: torch.Tensor = model.encode_text(tokenizer(list(texts)).to(table.weight.device))
    return rows.float().cpu()


@contextmanager
def _replaced(table: nn.Module, context: torch.Tensor) -> Iterator[None]:
    def replace(module: nn.Module, given: Any, found: torch.Tensor) -> torch.Tensor:
        own = context.to(found).expand(len(found), -1, -1)
        return torch.cat([found[:, :1], own, found[:, 1 + len(context) :]], dim=1)

    hook = table.register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()


def _table(model: Any, tokenizer: Any) -> Any:
    """The embedding of tokens, in any CLIP whose texts begin with a start token and have an end token."""
    text_tower = getattr(model, "text", model)
    if not hasattr(text_tower, "token_embedding") or not hasattr(tokenizer, "eot_token_id"):
        raise ConfigError("this backbone's text tower has no prompt that could be learnt")
    return text_tower.token_embedding
