"""The Qwen3 decoder as the trainer runs it: parameter names of transformers, packed rows.

transformers' own module trains the same weights; this one is a third of the code path, takes a
document id per token so that packed dialogues do not see each other, and compiles to one graph.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONFIG: dict[str, int | float | bool] = {
    "vocab_size": 640,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


def rope_tables(length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, head_dim], halves repeated as in Qwen3."""
    inverse = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), inverse)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, hidden: int, heads: int, kv_heads: int, head_dim: int, eps: float) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.q_proj = nn.Linear(hidden, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(hidden, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(hidden, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, hidden, bias=False)
        self.q_norm = nn.RMSNorm(head_dim, eps=eps)
        self.k_norm = nn.RMSNorm(head_dim, eps=eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        rows, length, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(rows, length, self.heads, self.head_dim))
        k = self.k_norm(self.k_proj(x).view(rows, length, self.kv_heads, self.head_dim))
        v = self.v_proj(x).view(rows, length, self.kv_heads, self.head_dim).transpose(1, 2)
        q, k = rotate(q.transpose(1, 2), cos, sin), rotate(k.transpose(1, 2), cos, sin)
        groups = self.heads // self.kv_heads
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        merged: Tensor = self.o_proj(out.transpose(1, 2).reshape(rows, length, -1))
        return merged


class Mlp(nn.Module):
    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    def __init__(self, config: dict[str, int | float | bool]) -> None:
        super().__init__()
        hidden, eps = int(config["hidden_size"]), float(config["rms_norm_eps"])
        self.self_attn = Attention(
            hidden,
            int(config["num_attention_heads"]),
            int(config["num_key_value_heads"]),
            int(config["head_dim"]),
            eps,
        )
        self.mlp = Mlp(hidden, int(config["intermediate_size"]))
        self.input_layernorm = nn.RMSNorm(hidden, eps=eps)
        self.post_attention_layernorm = nn.RMSNorm(hidden, eps=eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Decoder(nn.Module):
    """Loss of packed rows, all arguments [rows, length]; targets are -1 where no loss counts."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: dict[str, int | float | bool], length: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(int(config["vocab_size"]), int(config["hidden_size"]))
        self.layers = nn.ModuleList(Layer(config) for _ in range(int(config["num_hidden_layers"])))
        self.norm = nn.RMSNorm(int(config["hidden_size"]), eps=float(config["rms_norm_eps"]))
        cos, sin = rope_tables(length, int(config["head_dim"]), float(config["rope_theta"]))
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.5 * parameter.shape[1] ** -0.5)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)

    def forward(
        self, tokens: Tensor, targets: Tensor, weights: Tensor, documents: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Summed cross entropy, weighted and plain; attention stays within a document id."""
        length = tokens.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        mask = (causal & (documents[:, :, None] == documents[:, None, :]))[:, None]
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, self.cos[:length], self.sin[:length], mask)
        logits = F.linear(self.norm(x).flatten(0, 1), self.embed_tokens.weight)
        losses = F.cross_entropy(logits, targets.flatten(), ignore_index=-1, reduction="none")
        return (losses * weights.flatten()).sum(), losses.detach().sum()
