"""Small models of which every tensor can be written down by hand."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Mlp(nn.Module):
    """x + down(gelu(up(norm(x)))), the matrices being the identity unless drawn."""

    def __init__(
        self, width: int = 16, hidden: int = 16, norm: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.norm = nn.Identity() if norm is None else norm
        self.up = nn.Linear(width, hidden, bias=False)
        self.act = nn.GELU()
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.act(self.up(self.norm(x))))


class Glu(nn.Module):
    """x + down(silu(gate(x)) * up(x)); the function is called inside forward."""

    def __init__(self, width: int = 16, hidden: int = 16) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Shared(nn.Module):
    """Two blocks that share one norm and one activation module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Mlp(norm=nn.LayerNorm(16)), Mlp()
        self.second.norm, self.second.act = self.first.norm, self.first.act

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return the model in evaluation mode with parameters away from zero and one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.add_(0.3 * noise)
            else:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
    return model.eval()


def straight(model: nn.Module) -> nn.Module:
    """Return the model with every square matrix the identity, in evaluation mode."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(torch.eye(*parameter.shape))
    return model.eval()


def rows(count: int = 24, width: int = 16, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count // 2, width, generator=generator)


def hidden_of(model: nn.Module, x: Tensor, name: str = "down") -> Tensor:
    """Return what enters a module, read by a hook of this test."""
    found: list[Tensor] = []
    hook = model.get_submodule(name).register_forward_pre_hook(
        lambda _, args: found.append(args[0].detach().clone())
    )
    with torch.no_grad():
        model(x)
    hook.remove()
    return found[0]
