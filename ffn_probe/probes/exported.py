"""Models that are programs already, and blocks that were found through a compiled wrapper."""

import json

import torch
from torch import nn

from ffn_probe.anatomy import Block
from ffn_probe.errors import ModelError

_WRAPPER = "_orig_mod."


def check_not_exported(model: object) -> None:
    """Raise ModelError when the model is an exported or traced program."""
    kind = type(model).__name__
    if kind in {"ExportedProgram", "AOTICompiledModel"}:
        raise ModelError(
            f"{kind} is an exported program, not a module: it calls no hooks. Record the "
            "eager module it was exported from."
        )
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        return
    if _is_program(model):
        raise ModelError(
            "the model is a graph that torch.export made: its parts are code without modules, "
            "which calls no hooks. Record the eager module that it was made from; for speed, "
            "give that to torch.compile, whose graphs keep probes."
        )


def _is_program(model: nn.Module) -> bool:
    """Return whether the model is a graph that calls no module of its own."""
    if not isinstance(model, torch.fx.GraphModule):
        return type(model).__module__.startswith("torch.export")
    calls = {n.target for n in model.graph.nodes if n.op == "call_module"}
    return not calls - {"_guards_fn"}


def unwrapped(block: Block) -> Block:
    """Return a block with the paths of the modules that torch.compile wrapped."""
    text = json.dumps(block.to_dict())
    if _WRAPPER not in text:
        return block
    return Block.from_dict(json.loads(text.replace(f'"{_WRAPPER}', '"')))
