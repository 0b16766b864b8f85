"""Groups the parameters of a model from the bottom up: embeddings, each transformer layer, head."""

import re

from torch import nn

from tuneport.errors import TuneportError

EMBEDDINGS = re.compile(r"embed|(^|\.)(wte|wpe|shared|conv1|conv2|mask_emb)(\.|$)")
"""Names of parameters below the first layer, in all architectures."""
PREFIX = "prompt_encoder."
"""Beginning of the names of a prefix's parameters, which are new and so belong to the head."""


def layer_groups(model: nn.Module) -> list[list[str]]:
    """Group the names of all parameters from the bottom up: embeddings, every layer in order, head.

    The layers of an encoder come before those of a decoder. Poolers and last norms belong to the head. A head that is
    tied to the embeddings shares their weight and is in their group.
    """
    stacks = layer_stacks(model)
    groups: list[list[str]] = [[] for _ in range(2 + sum(len(stack) for stack in stacks.values()))]
    starts: dict[str, int] = {}
    start = 1
    for path, stack in stacks.items():
        starts[path], start = start, start + len(stack)
    for name, _ in model.named_parameters():
        inside = next((path for path in stacks if name.startswith(f"{path}.")), None)
        if inside is not None:
            index = int(name.removeprefix(f"{inside}.").partition(".")[0])
            groups[starts[inside] + index].append(name)
        else:
            is_below = EMBEDDINGS.search(name) and not name.startswith(PREFIX)
            groups[0 if is_below else -1].append(name)
    return groups


def layer_stacks(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Find the outermost lists of layers: path → list; the layers of a list are of one class.

    Raises TuneportError for a model without such a list.
    """
    stacks: dict[str, nn.ModuleList] = {}
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in stacks)
        if isinstance(module, nn.ModuleList) and len(module) and not inside:
            # By name, since the adapters package gives each layer a class of its own.
            classes = {type(layer).__qualname__ for layer in module}
            if len(classes) == 1 and any(True for _ in module[0].parameters()):
                stacks[path] = module
    if not stacks:
        raise TuneportError(f"{type(model).__name__} has no layers to tell apart", "use strategy = full")
    return stacks
