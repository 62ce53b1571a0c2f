"""Whether the masks of a state belong to its network."""

from __future__ import annotations

from torch import nn

from greg_compress.errors import InputError
from greg_compress.state.format import State


def require_masks(state: State, model: nn.Module, path: str) -> None:
    """Check a state's masks against its network, whose weights are loaded.

    Raises:
        InputError: a mask of what is no parameter, of another shape or at a stage that has none; or a weight that went,
            and is not zero.
    """
    if state.masks and state.stage == "dense":
        raise InputError(f"{path} is damaged: a dense state has no masks")
    parameters = dict(model.named_parameters())
    for name, mask in state.masks.items():
        if name not in parameters or parameters[name].shape != mask.shape:
            sizes = "x".join(map(str, mask.shape)) or "a number"
            raise InputError(f"{path} is damaged: it holds a mask of {sizes} for {name}, which is no such parameter")
        if state.stage != "regularized" and bool((parameters[name].detach()[mask] != 0).any()):
            raise InputError(f"{path} is damaged: weights of {name} that its mask removes are not zero")
