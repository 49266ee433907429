"""Reading and writing safetensors files: 8 bytes of header length, a JSON header padded to 8 bytes, then the data."""

import json
import struct

import numpy as np

_NUMPY_TYPES = {"F32": np.float32, "F16": np.float16, "I32": np.int32, "BF16": np.uint16}
_NAMES = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16", np.dtype(np.int32): "I32"}


class Bfloat16:
    """Float32 values that are stored as BF16. They must be exact in it."""

    def __init__(self, values):
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        if np.any(bits & 0xFFFF):
            raise ValueError("values are not exact in BF16")
        self.bits = (bits >> 16).astype(np.uint16)


def write_safetensors(path, tensors, metadata=None):
    """Writes `tensors` (name -> float32, float16, int32 array, Bfloat16, or dtype, shape and bytes) in order."""
    header = {"__metadata__": metadata} if metadata else {}
    chunks, offset = [], 0
    for name, value in tensors.items():
        if isinstance(value, tuple):
            dtype, shape, data = value
        else:
            bf16 = isinstance(value, Bfloat16)
            array = value.bits if bf16 else value
            dtype, shape = "BF16" if bf16 else _NAMES[array.dtype], list(array.shape)
            data = array.tobytes()  # row-major whatever the strides
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [offset, offset + len(data)],
        }
        offset += len(data)
        chunks.append(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(chunks))


def read_raw(path):
    """Returns name -> (dtype, shape, bytes)."""
    return _read(path)[0]


def read_safetensors(path):
    """Returns (name -> array, metadata). BF16 is widened to float32."""
    raw, metadata = _read(path)
    tensors = {}
    for name, (dtype, shape, data) in raw.items():
        array = np.frombuffer(data, _NUMPY_TYPES[dtype]).reshape(shape)
        if dtype == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        tensors[name] = array
    return tensors, metadata


def _read(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = (entry["dtype"], entry["shape"], data[begin:end])
    return tensors, metadata
