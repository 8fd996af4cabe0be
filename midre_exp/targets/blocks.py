"""Which submodules make up a stage, block by block, found by following what the stage calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, fx, nn

from midre_exp.errors import ConfigError

#: Names of the submodules of one block: a residual block, a dense layer, a convolution with what follows it.
Block = tuple[str, ...]
Stage = Callable[[Tensor], Tensor]


def children(model: nn.Module, name: str) -> list[Block]:
    """Every child of the submodule ``name`` as a block of its own."""
    return [(f"{name}.{child}",) for child, _ in model.get_submodule(name).named_children()]


def traced_blocks(model: nn.Module, stages: Iterable[tuple[str, Stage]]) -> dict[str, list[Block]]:
    """The blocks of every stage that has weights, found by following what each stage calls (``torch.fx``).

    A block begins at a submodule with weights; norms, activations and poolings belong to the one before. Of
    an ``nn.Sequential`` or ``nn.ModuleDict`` the children count. Raises ConfigError for a stage that cannot
    be followed without an image.
    """
    return {
        name: blocks for name, stage in stages if (blocks := _grouped(model, _called(model, name, stage)))
    }


class _Calls(fx.Tracer):
    """Notes the submodules of a model that a function calls, without looking into them."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.names = {module: name for name, module in model.named_modules()}
        self.called: list[str] = []

    def path_of_module(self, mod: nn.Module) -> str:
        """The model's name of a module; none for one that a stage makes up from others."""
        name: str = self.names.get(mod, "")
        return name

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Note a submodule and go no deeper."""
        if module_qualified_name:
            self.called.append(module_qualified_name)
        return bool(module_qualified_name)


def _called(model: nn.Module, name: str, stage: Stage) -> list[str]:
    calls = _Calls(model)
    try:
        calls.trace(lambda x: stage(x))
    except Exception as error:  # whatever a stage does with an image's numbers, which are not there
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"the layers of stage {name} of {type(model).__name__} cannot be told without an image "
            f"({reason}); "
            "give the class a method stage_blocks(), as in midre_exp/targets/architectures"
        ) from error
    return calls.called


def _grouped(model: nn.Module, names: Iterable[str]) -> list[Block]:
    blocks: list[Block] = []
    weighted = True  # whether the last block has its weights, so that further ones begin another
    for name in _opened(model, names):
        weights = any(parameter.ndim > 1 for parameter in model.get_submodule(name).parameters())
        if not blocks or (weights and weighted):
            blocks.append(())
            weighted = False
        blocks[-1] = (*blocks[-1], name)
        weighted = weighted or weights
    return blocks if any(model.get_submodule(name).parameters() for block in blocks for name in block) else []


def _opened(model: nn.Module, names: Iterable[str]) -> Iterable[str]:
    for name in names:
        module = model.get_submodule(name)
        if isinstance(module, (nn.Sequential, nn.ModuleDict)):
            yield from (f"{name}.{child}" for child, _ in module.named_children())
        else:
            yield name
