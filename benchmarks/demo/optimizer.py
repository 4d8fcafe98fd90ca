"""Muon for the matrices and AdamW for the rest, with the matrices shared out between workers."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Polar Express (arXiv 2505.16932), the first four steps of its table: in float32, on a CPU without
# bfloat16 arithmetic, more would cost too much and these bring singular values near enough to one.
STEPS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
)


def orthogonal(update: Tensor) -> Tensor:
    """The update with its singular values pulled to between 0.4 and 1.6; ``update`` [out, in]."""
    wide = update.T if update.shape[0] > update.shape[1] else update
    x: Tensor = wide / (wide.norm() * 1.02 + 1e-6)
    for a, b, c in STEPS:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if update.shape[0] > update.shape[1] else x


def is_matrix(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 2 and "embed" not in name


class Optimizer:
    """One step from gradients that are already summed over all workers."""

    def __init__(self, model: nn.Module, rank: int, workers: int, weight_decay: float) -> None:
        self.rank, self.workers, self.weight_decay = rank, workers, weight_decay
        self.matrices = {n: p for n, p in model.named_parameters() if is_matrix(n, p)}
        self.momenta = {n: torch.zeros_like(p) for n, p in self.matrices.items()}
        rest = [p for n, p in model.named_parameters() if not is_matrix(n, p)]
        self.adam = torch.optim.AdamW(rest, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0)

    @torch.no_grad()
    def step(self, muon_rate: float, adam_rate: float) -> None:
        for group in self.adam.param_groups:
            group["lr"] = adam_rate
        self.adam.step()
        updates = {}
        for index, (name, parameter) in enumerate(self.matrices.items()):
            gradient, momentum = parameter.grad, self.momenta[name]
            assert gradient is not None
            momentum.lerp_(gradient, 0.05)
            mine = index % self.workers == self.rank
            direction = gradient.lerp(momentum, 0.95)
            updates[name] = orthogonal(direction) if mine else torch.zeros_like(parameter)
        if self.workers > 1:
            all_reduce(list(updates.values()))
        for name, parameter in self.matrices.items():
            rows, columns = parameter.shape
            parameter.mul_(1 - muon_rate * self.weight_decay)
            parameter.add_(updates[name], alpha=-muon_rate * max(1.0, rows / columns) ** 0.5)

    def state(self) -> dict[str, object]:
        return {"adam": self.adam.state_dict(), "momenta": self.momenta}

    def load(self, state: dict[str, object]) -> None:
        adam, momenta = state["adam"], state["momenta"]
        assert isinstance(adam, dict) and isinstance(momenta, dict)
        self.adam.load_state_dict(adam)
        for name, momentum in momenta.items():
            self.momenta[name].copy_(momentum)


def all_reduce(tensors: list[Tensor]) -> None:
    """Sums ``tensors`` over the workers in place, in one message."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, piece in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
        tensor.copy_(piece.view_as(tensor))
