"""FlashInfer 0.6.9's paged wrappers on the CPU: its signatures, its rules, the right answers.

The native planner here writes a schedule that says which rows it was made for; the kernel, when the
stream comes to it, refuses a schedule that is not for the arrays it finds on the device, and
otherwise computes attention from those arrays alone.
"""

import inspect
import itertools
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.fake_device import FakeDevice

__version__ = "0.6.9"
_NUM_SMS = 132
_SCHEDULE_BYTES = 8 << 20
_ids = itertools.count(1)


class ContractError(AssertionError):
    """Something FlashInfer would answer with an error, a stall or silent garbage."""


class MissingJITCacheError(RuntimeError):
    """As in ``flashinfer.jit``: compiling is disabled and the kernels are not prebuilt."""


def require(condition: object, message: str) -> None:
    if not condition:
        raise ContractError(message)


SIGNATURES = {
    "decode.__init__": "self, float_workspace_buffer, kv_layout='NHD', use_cuda_graph=False, "
    "use_tensor_cores=False, paged_kv_indptr_buffer=None, paged_kv_indices_buffer=None, "
    "paged_kv_last_page_len_buffer=None, backend='auto', jit_args=None",
    "decode.plan": "self, indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, "
    "page_size, pos_encoding_mode='NONE', window_left=-1, logits_soft_cap=None, "
    "q_data_type='float16', kv_data_type=None, o_data_type=None, data_type=None, sm_scale=None, "
    "rope_scale=None, rope_theta=None, non_blocking=True, block_tables=None, seq_lens=None, "
    "fixed_split_size=None, disable_split_kv=False",
    "decode.run": "self, q, paged_kv_cache, *args, q_scale=None, k_scale=None, v_scale=None, "
    "out=None, lse=None, return_lse=False, enable_pdl=None, window_left=None, sinks=None, "
    "q_len_per_req=1, skip_softmax_threshold_scale_factor=None, kv_cache_sf=None",
    "prefill.__init__": "self, float_workspace_buffer, kv_layout='NHD', use_cuda_graph=False, "
    "qo_indptr_buf=None, paged_kv_indptr_buf=None, paged_kv_indices_buf=None, "
    "paged_kv_last_page_len_buf=None, custom_mask_buf=None, mask_indptr_buf=None, "
    "backend='auto', jit_args=None, jit_kwargs=None",
    "prefill.plan": "self, qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, "
    "num_qo_heads, num_kv_heads, head_dim_qk, page_size, head_dim_vo=None, custom_mask=None, "
    "packed_custom_mask=None, causal=False, pos_encoding_mode='NONE', "
    "use_fp16_qk_reduction=False, sm_scale=None, window_left=-1, logits_soft_cap=None, "
    "rope_scale=None, rope_theta=None, q_data_type='float16', kv_data_type=None, "
    "o_data_type=None, non_blocking=True, prefix_len_ptr=None, token_pos_in_items_ptr=None, "
    "token_pos_in_items_len=0, max_item_len_ptr=None, seq_lens=None, seq_lens_q=None, "
    "block_tables=None, max_token_per_sequence=None, max_sequence_kv=None, "
    "fixed_split_size=None, disable_split_kv=False",
    "prefill.run": "self, q, paged_kv_cache, *args, q_scale=None, k_scale=None, v_scale=None, "
    "out=None, lse=None, return_lse=False, enable_pdl=None, window_left=None, sinks=None, "
    "kv_cache_sf=None, skip_softmax_threshold_scale_factor=None",
}


def bind(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> SimpleNamespace:
    """The arguments of a call by name, defaults included; a call that does not fit is an error."""
    signature = inspect.signature(eval(f"lambda {SIGNATURES[name]}: None"))
    bound = signature.bind(None, *args, **kwargs)
    bound.apply_defaults()
    return SimpleNamespace(**bound.arguments)


@dataclass(slots=True)
class Library:
    """What stands for the module ``flashinfer``."""

    device: FakeDevice
    prebuilt: bool = True
    loaded: list[tuple[Any, ...]] = field(default_factory=list)
    num_plans: int = 0
    __version__: str = __version__

    def module(self, *uri: Any) -> "Module":
        if uri not in self.loaded:
            if not self.prebuilt:
                raise MissingJITCacheError("JIT compilation is disabled")
            self.loaded.append(uri)
        return Module(self, str(uri[0]))

    def BatchDecodeWithPagedKVCacheWrapper(self, *args: Any, **kwargs: Any) -> "DecodeWrapper":
        return DecodeWrapper(self, *args, **kwargs)

    def BatchPrefillWithPagedKVCacheWrapper(self, *args: Any, **kwargs: Any) -> "PrefillWrapper":
        return PrefillWrapper(self, *args, **kwargs)


@dataclass(slots=True)
class Module:
    """A loaded kernel module: ``fa2``, ``fa3`` or ``decode``."""

    library: Library
    backend: str
    uid: int = field(default_factory=lambda: next(_ids))

    def plan(self, floats: Tensor, ints: Tensor, pinned: Tensor, *args: Any) -> list[int]:
        """The native planner: arguments by position, as many as the backend takes."""
        require(
            self.library.device.is_pinned(pinned), "the schedule is not staged in pinned memory"
        )
        require(not self.library.device.is_pinned(ints), "the schedule must be on the device")
        self.library.num_plans += 1
        plan = self._plan_decode if self.backend == "decode" else self._plan_prefill
        need, info, rows = plan(*args)
        if need > floats.numel():
            raise RuntimeError("Buffer overflow when allocating memory for batch_prefill_tmp_v")
        schedule = torch.tensor([self.uid, *info, *rows], dtype=torch.int32).view(torch.uint8)
        pinned[: len(schedule)].numpy()[:] = schedule.numpy()
        ints[: len(schedule)].copy_(pinned[: len(schedule)], non_blocking=True)
        return info

    def _plan_decode(
        self, kv_indptr: Tensor, batch: int, heads: int, kv_heads: int, page: int, graph: bool,
        window_left: int, soft_cap: float, dim: int, dim_vo: int, q: Tensor, k: Tensor,
    ) -> tuple[int, list[int], list[int]]:  # fmt: skip
        require(heads // kv_heads in (1, 2, 3), "no such kernel, or slower than the tensor cores")
        require(graph and soft_cap == 0.0 and q.dtype == k.dtype and dim == dim_vo, "bad plan")
        return 0, [batch, window_left], _rows(kv_indptr, batch)

    def _plan_prefill(
        self, qo_indptr: Tensor, kv_indptr: Tensor, kv_lens: Tensor, total: int, batch: int,
        heads: int, kv_heads: int, page: int, graph: bool, dim: int, dim_vo: int, causal: bool,
        window_left: int, *splitting: Any,
    ) -> tuple[int, list[int], list[int]]:  # fmt: skip
        require(splitting == ((-1, False, 0) if self.backend == "fa2" else ()), "bad arity")
        require(int(qo_indptr[batch]) <= total, "more tokens than the first plan had")
        rows = _rows(kv_indptr, batch) + qo_indptr[: batch + 1].tolist()
        if self.backend == "fa3":
            return 0, [total, batch, window_left], rows + kv_lens[:batch].tolist()
        group, split = heads // kv_heads, 2 * _NUM_SMS // kv_heads
        packed = (total - batch + 1 if graph else total // batch) * group
        tile = 128 if packed > 64 and dim < 256 else 64 if packed > 16 else 16
        blocks = max(split, -(-total * group // tile) + batch - 1) if graph else split
        need = heads * blocks * tile * (dim + 1) * 4
        return need, [blocks if graph else 0, tile, total, batch, window_left], rows

    def launch(self, wrapper: "_Wrapper", q: Tensor, kv: Tensor, out: Tensor) -> None:
        """Enqueue the kernel. What it is told now is frozen; what it reads, it reads later."""
        info, ints, causal = list(wrapper._plan_info), wrapper._int_workspace_buffer, q.shape[0]
        qo, indptr = wrapper._qo_indptr_buf, wrapper._paged_kv_indptr_buf
        indices, last = wrapper._paged_kv_indices_buf, wrapper._paged_kv_last_page_len_buf
        window_left, scale = wrapper._window_left, wrapper._sm_scale

        def kernel() -> None:
            page = kv.shape[2]
            lens = (indptr.diff() - 1) * page + last
            expected = [self.uid, *info, *indptr.tolist()]
            if self.backend != "decode":
                expected += qo.tolist()
            if self.backend == "fa3":
                expected += lens.tolist()
            found = ints[: 4 * len(expected)].view(torch.int32).tolist()
            require(found == expected, "stale schedule")
            require(bool(((last >= 1) & (last <= page)).all()), "last_page_len out of range")
            require(int(qo[-1]) <= causal, "tokens past the launch")
            _attend(q, kv, qo, indptr, indices, lens, window_left, scale, out)

        self.library.device.stream.enqueue(kernel)


def _rows(kv_indptr: Tensor, batch: int) -> list[int]:
    require(bool((kv_indptr.diff() >= 1).all()), "a row of length zero answers NaN")
    return kv_indptr[: batch + 1].tolist()


def _attend(
    q: Tensor, kv: Tensor, qo: Tensor, indptr: Tensor, indices: Tensor, lens: Tensor,
    window_left: int, scale: float, out: Tensor,
) -> None:  # fmt: skip
    group = q.shape[1] // kv.shape[3]
    for row, kv_len in enumerate(lens.tolist()):
        start, end = int(qo[row]), int(qo[row + 1])
        if start == end:
            continue
        pages = kv[indices[int(indptr[row]) : int(indptr[row + 1])].long()].double()
        context = pages.transpose(0, 1).flatten(1, 2)[:, :kv_len]
        keys, values = context.repeat_interleave(group, dim=2)
        at = torch.arange(kv_len - (end - start), kv_len)[:, None]
        seen = torch.arange(kv_len)[None, :] <= at
        if window_left >= 0:
            seen &= torch.arange(kv_len)[None, :] + window_left >= at
        scores = torch.einsum("qhd,khd->hqk", q[start:end].double(), keys) * scale
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        out[start:end] = torch.einsum("hqk,khd->qhd", weights, values).to(out.dtype)


class _Wrapper:
    """What both wrappers do the same way."""

    _qo_indptr_buf: Tensor
    _paged_kv_indptr_buf: Tensor
    _paged_kv_indices_buf: Tensor
    _paged_kv_last_page_len_buf: Tensor
    _plan_info: list[int]
    _window_left: int
    _sm_scale: float

    def __init__(self, library: Library, workspace: Tensor) -> None:
        self._library, self._float_workspace_buffer = library, workspace
        self._int_workspace_buffer = torch.empty(_SCHEDULE_BYTES, dtype=torch.uint8)
        self._pin_memory_int_workspace_buffer = torch.empty(
            _SCHEDULE_BYTES, dtype=torch.uint8, pin_memory=True
        )

    def _check_plan(self, given: Any, kv_indptr: Tensor, indices: Tensor, *host: Tensor) -> None:
        for tensor in (kv_indptr, given.seq_lens, *host):
            require(tensor.dtype == torch.int32, "not int32: another module is built")
            require(self._library.device.is_pinned(tensor), "not pinned, so that plan waits")
        require(indices.dtype == torch.int32, "indices are not int32")
        require(
            not self._library.device.is_pinned(indices), "indices on the host, so that plan waits"
        )
        require(given.q_data_type == given.kv_data_type != "float16", "float16 is the default type")
        last_page_len = host[0]
        require(bool((last_page_len <= given.page_size).all()), "last_page_len out of range")
        require(bool((last_page_len >= 1).all()), "last_page_len out of range")
        self._dtype = given.q_data_type

    def _send(self, host: Tensor, device: Tensor | None = None) -> Tensor:
        device = torch.empty_like(host) if device is None else device
        device.copy_(host, non_blocking=True)
        return device

    def _plan(self, backend: str, given: Any, *args: Any) -> None:
        dim = getattr(given, "head_dim", None) or given.head_dim_qk
        self._cached_module = self._library.module(
            backend, given.q_data_type, dim, given.window_left >= 0
        )
        self._window_left, self._sm_scale = given.window_left, given.sm_scale
        self._plan_info = self._cached_module.plan(
            self._float_workspace_buffer,
            self._int_workspace_buffer,
            self._pin_memory_int_workspace_buffer,
            *args,
        )

    def _run(self, given: Any) -> Tensor:
        q, kv, out = given.q, given.paged_kv_cache, given.out
        require(isinstance(kv, Tensor) and kv.dim() == 5, "kv must be one tensor or a tuple")
        require(q.dtype == kv.dtype == self._dtype, "planned for another type")
        require(out is not None, "allocates, and prefill fills with zeros")
        require(out.shape == q.shape and out.dtype == q.dtype, "invalid shape of out")
        require(out.is_contiguous() and q.stride(2) == 1, "strides")
        self._cached_module.launch(self, q, kv, out)
        result: Tensor = out
        return result


class DecodeWrapper(_Wrapper):
    def __init__(self, library: Library, *args: Any, **kwargs: Any) -> None:
        given = bind("decode.__init__", args, kwargs)
        super().__init__(library, given.float_workspace_buffer)
        require(given.backend == "fa2", "another backend than fa2 is a trap for decode")
        require(given.use_cuda_graph and given.kv_layout == "NHD", "not fit for capture")
        self._paged_kv_indptr_buf = given.paged_kv_indptr_buffer
        self._paged_kv_indices_buf = given.paged_kv_indices_buffer
        self._paged_kv_last_page_len_buf = given.paged_kv_last_page_len_buffer
        self._rows = len(self._paged_kv_last_page_len_buf)
        require(len(self._paged_kv_indptr_buf) == self._rows + 1, "indptr is batch_size + 1 long")
        self._qo_indptr_buf = torch.arange(self._rows + 1, dtype=torch.int32)
        self._tensor_cores = given.use_tensor_cores

    def plan(self, *args: Any, **kwargs: Any) -> None:
        given = bind("decode.plan", args, kwargs)
        heads, kv_heads, dim = given.num_qo_heads, given.num_kv_heads, given.head_dim
        self._check_plan(given, given.indptr, given.indices, given.last_page_len)
        require(len(given.last_page_len) == self._rows, "batch size is fixed in graph mode")
        require(not given.disable_split_kv and given.fixed_split_size is None, "unsafe in graphs")
        require(self._tensor_cores == (heads // kv_heads >= 4), "tensor cores from a group of 4")
        self._send(given.indptr, self._paged_kv_indptr_buf)
        self._send(given.last_page_len, self._paged_kv_last_page_len_buf)
        sizes = (heads, kv_heads, given.page_size, True)
        if self._tensor_cores:
            rows = (self._qo_indptr_buf, given.indptr, given.seq_lens, self._rows, self._rows)
            self._plan(
                "fa2", given, *rows, *sizes, dim, dim, False, given.window_left, -1, False, 0
            )
        else:
            empty = torch.empty(0, dtype=self._dtype)
            rest = (given.window_left, 0.0, dim, dim, empty, empty)
            self._plan("decode", given, given.indptr, self._rows, *sizes, *rest)

    def run(self, *args: Any, **kwargs: Any) -> Tensor:
        given = bind("decode.run", args, kwargs)
        require(given.q.shape[0] == self._rows, "q.shape[0] does not match batch_size")
        return self._run(given)


class PrefillWrapper(_Wrapper):
    def __init__(self, library: Library, *args: Any, **kwargs: Any) -> None:
        given = bind("prefill.__init__", args, kwargs)
        super().__init__(library, given.float_workspace_buffer)
        require(given.backend in ("fa2", "fa3") and given.kv_layout == "NHD", "name the backend")
        self._backend, self._graph = given.backend, given.use_cuda_graph
        self._max_total_num_rows: int | None = None
        if self._graph:
            self._qo_indptr_buf = given.qo_indptr_buf
            self._paged_kv_indptr_buf = given.paged_kv_indptr_buf
            self._paged_kv_indices_buf = given.paged_kv_indices_buf
            self._paged_kv_last_page_len_buf = given.paged_kv_last_page_len_buf

    def plan(self, *args: Any, **kwargs: Any) -> None:
        given = bind("prefill.plan", args, kwargs)
        kv_indptr, last = given.paged_kv_indptr, given.paged_kv_last_page_len
        self._check_plan(given, kv_indptr, given.paged_kv_indices, last, given.qo_indptr)
        require(given.causal, "causal is False by default")
        total, batch = int(given.qo_indptr[-1]), len(last)
        if self._graph:
            self._max_total_num_rows = self._max_total_num_rows or total
            require(total <= self._max_total_num_rows, "the first plan must have the most tokens")
            require(len(self._paged_kv_last_page_len_buf) == batch, "batch size is fixed in graphs")
            self._send(given.qo_indptr, self._qo_indptr_buf)
            self._send(kv_indptr, self._paged_kv_indptr_buf)
            self._send(last, self._paged_kv_last_page_len_buf)
        else:
            self._qo_indptr_buf = self._send(given.qo_indptr)
            self._paged_kv_indptr_buf = self._send(kv_indptr)
            self._paged_kv_last_page_len_buf = self._send(last)
            self._paged_kv_indices_buf = given.paged_kv_indices
        self._qo_indptr_last = total
        rows = (
            given.qo_indptr,
            kv_indptr,
            given.seq_lens,
            self._max_total_num_rows or total,
            batch,
        )
        sizes = (given.num_qo_heads, given.num_kv_heads, given.page_size, self._graph)
        rest = (given.head_dim_qk, given.head_dim_qk, True, given.window_left)
        splitting = (-1, False, 0) if self._backend == "fa2" else ()
        self._plan(self._backend, given, *rows, *sizes, *rest, *splitting)

    def run(self, *args: Any, **kwargs: Any) -> Tensor:
        given = bind("prefill.run", args, kwargs)
        require(given.q.shape[0] == self._qo_indptr_last, "q.shape[0] is not qo_indptr[-1]")
        return self._run(given)
