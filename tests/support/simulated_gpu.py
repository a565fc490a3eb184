"""A GPU that is not there: tensors that say they are on cuda:0 and compute on the CPU.

What a GPU would refuse is an error here too: operands on two devices, `numpy()` of a tensor on the GPU. Every time that
the host would wait for the GPU is counted. Autograd works: to torch's own code in C++ the tensors are on the CPU.

    with simulated_gpu() as gpu:
        model.cuda()
        model(batch.cuda()).tolist()
    assert gpu.waits.total() == 2  # to the GPU from memory that is not pinned, and back

Not simulated: streams, CUDA's own kernels and their rounding, autocast, random numbers.
"""

import collections
import contextlib
import sys
import types
from unittest import mock

import torch
from fairseq.logging import metrics
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)

WAITS = {
    f"aten::{name}"
    for name in "_local_scalar_dense nonzero masked_select equal _unique2 unique_dim unique_consecutive repeat_interleave".split()
}
"""Operators whose result the host needs, or whose result's size it needs."""

INDEXING = {f"aten::{name}" for name in "index index_put index_put_ _index_put_impl_ _unsafe_index".split()}

TO_A_TENSOR = {torch.tensor, torch.as_tensor, torch.asarray}
MOVES = {torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda, torch.Tensor.type_as}


class GpuTensor(torch.Tensor):
    """A tensor on the simulated GPU; `held` is the CPU's tensor that it computes with."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        inference = held.is_inference()  # in inference mode a view of a tensor from outside is none of its tensors
        with contextlib.nullcontext() if inference == torch.is_inference_mode_enabled() else torch.inference_mode(inference):
            tensor = torch.Tensor._make_wrapper_subclass(
                cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=CPU
            )
        tensor.held = held
        return tensor

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def __repr__(self, *, tensor_contents=None):
        return f"GpuTensor({self.held})"

    def get_device(self):
        return CUDA.index

    def numpy(self, *args, **kwargs):
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
        )

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, function, classes, args=(), kwargs=None):
        raise RuntimeError(f"{function}: a tensor of the simulated GPU is used outside of it")


class _ToGpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor):
        return GpuTensor(tensor.detach())

    @staticmethod
    def backward(ctx, gradient):
        return gradient.held


class _ToCpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor):
        return tensor.held.clone()

    @staticmethod
    def backward(ctx, gradient):
        return GpuTensor(gradient)


def _is_cuda(device) -> bool:
    """Whether a device is the GPU, as torch takes it: a name, a number, a `torch.device`, None."""
    if device is None:
        return False
    return isinstance(device, int) or torch.device(device).type == "cuda"


def _map(change, value):
    """`change` of the tensors of an operator's arguments or results: alone, in lists and in tuples."""
    if isinstance(value, torch.Tensor):
        return change(value)
    return type(value)([_map(change, item) for item in value]) if type(value) in (list, tuple) else value


class SimulatedGpu:
    """What the simulation has seen.

    Attributes:
        waits: how often the host has waited, by (what for, innermost line of bang or fairseq).
    """

    def __init__(self):
        self.waits = collections.Counter()

    def wait(self, what: str) -> None:
        """Counts a wait."""
        frame = sys._getframe(1)
        while frame is not None and not any(f"/{name}/" in frame.f_code.co_filename for name in ("bang", "fairseq")):
            frame = frame.f_back
        code = frame.f_code if frame else None
        where = f"{'/'.join(code.co_filename.split('/')[-2:])}:{frame.f_lineno} {code.co_name}" if frame else "the test"
        self.waits[what, where] += 1

    def move(self, tensor, device, dtype, blocking, copy=False):
        """A tensor with another device (None: the same), another dtype (None: the same), or both."""
        if dtype is not None and dtype != tensor.dtype or copy:
            tensor = torch.Tensor.to(tensor, dtype=dtype or tensor.dtype, copy=copy)
        if device is None or _is_cuda(device) == isinstance(tensor, GpuTensor):
            return tensor
        if blocking and tensor.numel():
            self.wait("copy to the GPU" if _is_cuda(device) else "copy to the host")
        with_gradient = tensor.requires_grad and torch.is_grad_enabled()
        if _is_cuda(device):
            return _ToGpu.apply(tensor) if with_gradient else GpuTensor(tensor.detach().clone())
        return _ToCpu.apply(tensor) if with_gradient else tensor.detach().held.clone()


class _Functions(TorchFunctionMode):
    """What torch's Python functions would ask CUDA for: copies between devices, new tensors on the GPU."""

    def __init__(self, gpu: SimulatedGpu):
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, function, classes, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in MOVES and isinstance(args[0], torch.Tensor):
            return self._move(function, *args, **kwargs)
        if function is torch.Tensor.pin_memory:
            return args[0]
        if function is torch.Tensor.tolist and isinstance(args[0], GpuTensor):
            self.gpu.wait("tolist")
            return args[0].held.tolist()
        if function is torch.Tensor.new and isinstance(args[0], GpuTensor):
            return GpuTensor(args[0].held.new(*args[1:], **kwargs))
        if function is torch.Tensor.new_tensor and isinstance(args[0], GpuTensor):
            kwargs.setdefault("device", CUDA)
        if _is_cuda(kwargs.get("device")) and function is not torch._C._nn._parse_to:  # that of a module's `to`
            device = kwargs.pop("device")
            if function in TO_A_TENSOR or function is torch.Tensor.new_tensor:
                made = self._make(function, args, kwargs)
                return made if isinstance(made, GpuTensor) else self.gpu.move(made, device, None, blocking=True)
            made = function(*args, **kwargs)
            return made if isinstance(made, GpuTensor) else GpuTensor(made)
        if function in TO_A_TENSOR:
            made = self._make(function, args, kwargs)
            return self.gpu.move(made, kwargs.get("device"), None, blocking=True)
        return function(*args, **kwargs)

    def _make(self, function, args, kwargs):
        """torch.tensor and its like, which read their data in C++ where a tensor of the GPU has none."""
        if args and isinstance(args[0], GpuTensor):
            made = args[0] if kwargs.get("dtype") is None else torch.Tensor.to(args[0], kwargs["dtype"])
            return made.clone() if function is torch.tensor else made
        return function(*args, **kwargs)

    def _move(self, function, tensor, *args, device=None, dtype=None, other=None, non_blocking=False, copy=False, **unused):
        if function is torch.Tensor.cpu:
            device = CPU
        if function is torch.Tensor.cuda:
            device = CUDA if device is None else device
        for value in args:
            if isinstance(value, torch.Tensor):
                other = value
            elif isinstance(value, torch.dtype):
                dtype = value
            elif isinstance(value, bool):
                non_blocking = value
            elif value is not None:
                device = value
        if other is not None:
            device, dtype = other.device, other.dtype
        return self.gpu.move(tensor, device, dtype, not non_blocking, copy)


class _Operators(TorchDispatchMode):
    """torch's operators: checked, counted, computed on the CPU."""

    def __init__(self, gpu: SimulatedGpu):
        super().__init__()
        self.gpu = gpu

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # nothing is compiled here; to tell the compiler so takes a second

    def __torch_dispatch__(self, function, classes, args=(), kwargs=None):
        kwargs, ours, others = dict(kwargs or {}), [], []

        def held(tensor):
            of_gpu = isinstance(tensor, GpuTensor)
            (ours if of_gpu else others).append(tensor)
            return tensor.held if of_gpu else tensor

        args_held = _map(held, args)
        kwargs_held = {key: _map(held, value) for key, value in kwargs.items()}
        asked = _is_cuda(kwargs.get("device"))
        if not ours and not asked:
            return function(*args, **kwargs)
        name = function._schema.name
        self._check(name, args, ours, others)
        if asked:
            kwargs_held["device"] = CPU
        kwargs_held.pop("pin_memory", None)
        made = function(*args_held, **kwargs_held)
        if name == "aten::copy_" and not isinstance(args[0], GpuTensor):
            return args[0]
        # an operator that writes to an argument gives back that very tensor
        written = {id(tensor.held): tensor for tensor in ours} if function._schema.is_mutable else {}
        return _map(lambda tensor: written[id(tensor)] if id(tensor) in written else GpuTensor(tensor), made)

    def _check(self, name, args, ours, others) -> None:
        """Raises RuntimeError where CUDA would; counts the waits."""
        if name in WAITS:
            self.gpu.wait(name)
        elif name == "aten::copy_":
            if isinstance(args[0], GpuTensor) != isinstance(args[1], GpuTensor) and args[1].dim() and not (args[2:] and args[2]):
                self.gpu.wait("copy between devices")
        elif name in INDEXING:
            indices = [index for index in args[1] if index is not None]
            if not isinstance(args[0], GpuTensor):
                raise RuntimeError(f"{name}: indices should be either on cpu or on the same device as the indexed tensor (cpu)")
            if len(args) > 2 and not isinstance(args[2], GpuTensor) and args[2].dim():
                raise RuntimeError(f"{name}: Expected all tensors to be on the same device, the values are on cpu")
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                self.gpu.wait(f"{name} by a mask")
            if not all(isinstance(index, GpuTensor) for index in indices):
                self.gpu.wait(f"{name} by indices of the host")
        # a tensor without dimensions passes as a number; autograd fills in empty ones
        elif ours and any(tensor.dim() and tensor.numel() for tensor in others):
            shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (ours, others)]
            raise RuntimeError(
                f"{name}: Expected all tensors to be on the same device, found cuda:0 {shapes[0]} and cpu {shapes[1]}"
            )


PROPERTIES = types.SimpleNamespace(name="simulated GPU", major=8, minor=0, total_memory=1 << 34)

OF_CUDA = {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: CUDA.index,
    "set_device": lambda device: None,
    "get_device_properties": lambda device=None: PROPERTIES,
    "get_device_capability": lambda device=None: (PROPERTIES.major, PROPERTIES.minor),
    "get_rng_state": lambda device="cuda": torch.zeros(0, dtype=torch.uint8),
    "set_rng_state": lambda state, device="cuda": None,
    "max_memory_allocated": lambda device=None: 0,
    **{name: lambda *args: None for name in "_lazy_init manual_seed manual_seed_all empty_cache reset_peak_memory_stats".split()},
}
"""What of torch.cuda fairseq and bang call."""


@contextlib.contextmanager
def simulated_gpu():
    """Within it `cuda` is the simulated GPU; gives the `SimulatedGpu`.

    Tensors of it are of no use outside.
    """
    gpu, swaps = SimulatedGpu(), torch.__future__.get_swap_module_params_on_conversion()
    # a module keeps its parameters, and shares those that it shared
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with mock.patch.multiple(torch.cuda, **OF_CUDA), _Operators(gpu), _Functions(gpu):
            yield gpu
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)
        metrics.reset()  # fairseq's meters outlive a run, and add to tensors of it
