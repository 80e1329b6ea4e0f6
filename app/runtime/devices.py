"""Which devices the service computes on."""

import torch

from app.cam.trunks import Precision

# How PyTorch, OpenVINO, oneDNN, C++ and Python's threads say that there is no memory for them.
_OUT_OF_MEMORY = (
    "can't alloc",
    "Failed to allocate",
    "could not create a primitive",
    "std::bad_alloc",
    "can't start new thread",
)


def choose_devices(names: tuple[str, ...]) -> tuple[torch.device, ...]:
    """Turns `auto`, `cpu`, `cuda`, `cuda:1` into devices.

    Raises:
        ValueError: the machine has no such device.
    """
    devices = []
    for name in names:
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
        except RuntimeError:
            raise ValueError(f"CAM_DEVICE: '{name}' is no device; it takes auto, cpu, cuda or cuda:N") from None
        if device.type == "cuda":
            count = torch.cuda.device_count()
            if (device.index or 0) >= count:
                raise ValueError(f"CAM_DEVICE: '{name}' is not here; this machine has {count} CUDA devices")
        elif device.type != "cpu":
            raise ValueError(f"CAM_DEVICE: '{name}' is not supported; it takes auto, cpu, cuda or cuda:N")
        devices.append(device)
    return tuple(devices)


def set_precision(precision: Precision) -> None:
    """Has CUDA compute in full float32 unless asked otherwise: left alone, its convolutions round to 10 bits."""
    mode = "ieee" if precision == "float32" else "tf32"
    torch.backends.cudnn.conv.fp32_precision = mode  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = mode


def is_out_of_memory(error: BaseException) -> bool:
    """Whether something failed for want of memory, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)
