"""Low-rank adapters by hand, equal to PEFT's in output and gradients.

    y = W x + s B A x        W (out, in) frozen; A (rank, in) and B (out, rank) trained

With rank-stabilized scaling (rsLoRA), weight decomposition (DoRA), merging, and what it costs.
PEFT does the work in training; this module is how one sees that nothing else happens.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from .. import KitError

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
ALL_LINEAR = ATTENTION + FEED_FORWARD


@dataclass(frozen=True)
class AdapterCost:
    """What training adapters takes. parameters are trained, of them total in the model.

    Bytes: weight_bytes and gradient_bytes in fp32, optimizer_bytes for Adam's two moments.
    """

    parameters: int
    total: int
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int

    @property
    def share(self) -> float:
        """The part of all parameters that is trained, 0 to 1."""
        return self.parameters / self.total


def low_rank(W: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best approximation of a matrix by two thin ones.

    Args:
        W: (out, in).
        rank: the width of the thin matrices, 1 to min(out, in).

    Returns:
        (B (out, rank), A (rank, in)): no other B A of this rank is nearer to W.

    Raises:
        KitError: a rank out of range.

    Source: Eckart & Young 1936; `torch.linalg.svd` finds the singular values.
    """
    if not 1 <= rank <= min(W.shape):
        raise KitError(f"rank must be from 1 to {min(W.shape)} for this matrix, not {rank}.")
    U, S, V = torch.linalg.svd(W.float(), full_matrices=False)
    root = S[:rank].sqrt()
    return U[:, :rank] * root, root[:, None] * V[:rank]


def rank_errors(W: torch.Tensor) -> torch.Tensor:
    """How much of a matrix every rank leaves out.

    Args:
        W: (out, in).

    Returns:
        (min(out, in) + 1,): the relative Frobenius error |W - B A| / |W| at ranks 0, 1, 2, ...
    """
    energy = torch.linalg.svdvals(W.float()).square()
    rest = energy.flip(0).cumsum(0).flip(0)
    return torch.cat([rest, rest.new_zeros(1)]).clamp(min=0).div(rest[0]).sqrt()


class LoraLinear(nn.Module):
    """A frozen linear layer with a trainable low-rank part beside it.

    base: the frozen `nn.Linear`.   A: (rank, in).   B: (out, rank), zero at first, so that
    training starts from the unchanged model.   scale: alpha / rank, or alpha / sqrt(rank).
    magnitude: (out,), only with DoRA.

    Source: LoRA (arXiv 2106.09685), equation 3; rsLoRA (2312.03732); DoRA (2402.09353),
    equation 5 with the norm's gradient left out as in its section 4.3. Equal to PEFT's
    `lora.Linear`.
    """

    def __init__(
        self,
        base: nn.Linear,
        rank: int = 16,
        alpha: float = 32,
        rank_stabilized: bool = False,
        dora: bool = False,
    ):
        super().__init__()
        if rank < 1:
            raise KitError(f"rank must be at least 1, not {rank}.")
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(torch.empty(rank, base.in_features))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.scale = alpha / (math.sqrt(rank) if rank_stabilized else rank)
        self.magnitude = nn.Parameter(base.weight.detach().norm(dim=1)) if dora else None
        self._original: torch.Tensor | None = None

    def delta(self) -> torch.Tensor:
        """What the adapter adds to the weight: s B A, (out, in)."""
        return self.scale * self.B @ self.A

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Args: x (..., in). Returns (..., out)."""
        if self._original is not None:
            return self.base(x)
        low = self.scale * ((x @ self.A.t()) @ self.B.t())
        if self.magnitude is None:
            return self.base(x) + low
        y = (x @ self.base.weight.t() + low) * self._stretch()
        return y if self.base.bias is None else y + self.base.bias

    def merge(self) -> None:
        """Add the adapter to the weight: the same outputs at no extra cost.

        Raises:
            KitError: merged already.
        """
        if self._original is not None:
            raise KitError("This adapter is merged already; merging twice would add it twice.")
        self._original = self.base.weight.data
        merged = self._original + self.delta().detach()
        if self.magnitude is not None:
            merged *= self._stretch().detach()[:, None]
        self.base.weight.data = merged

    def unmerge(self) -> None:
        """Take the adapter out again; the very weight from before comes back.

        Raises:
            KitError: not merged.
        """
        if self._original is None:
            raise KitError("This adapter is not merged.")
        self.base.weight.data, self._original = self._original, None

    def _stretch(self) -> torch.Tensor:
        """DoRA: from each row's norm to its trained magnitude."""
        assert self.magnitude is not None
        norm = (self.base.weight + self.delta()).norm(dim=1)
        return self.magnitude / norm.detach()


def adapter_cost(model: nn.Module, rank: int, targets: tuple[str, ...] = ALL_LINEAR) -> AdapterCost:
    """What adapters of a rank would cost, without building them.

    Args:
        model: a model with its plain or 4-bit linear layers.
        rank: of the adapters.
        targets: the last parts of the layers' names.

    Returns:
        rank * (in + out) parameters a layer, summed, in parameters and bytes.

    Raises:
        KitError: no layer has such a name.
    """
    layers = _linear_layers(model, targets)
    shapes = [(layer.out_features, layer.in_features) for layer in layers]
    trained = sum(rank * sum(shape) for shape in shapes)
    packed = {id(layer.weight) for layer in layers if layer.weight.dtype == torch.uint8}
    total = sum(p.numel() for p in model.parameters() if id(p) not in packed)
    for layer, shape in zip(layers, shapes, strict=True):
        if id(layer.weight) in packed:
            total += math.prod(shape)
    return AdapterCost(trained, total + trained, 4 * trained, 4 * trained, 8 * trained)


def _linear_layers(model: nn.Module, targets: tuple[str, ...]) -> list[nn.Linear]:
    """The linear layers whose name ends in a target."""
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    layers = [layer for name, layer in linears.items() if name.rsplit(".", 1)[-1] in targets]
    if not layers:
        known = sorted({name.rsplit(".", 1)[-1] for name in linears})
        raise KitError(
            f"No linear layer is named {', '.join(targets)}. There are: {', '.join(known)}."
        )
    return layers
