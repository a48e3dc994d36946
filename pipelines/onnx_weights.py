"""ONNX graphs without the numbers that a checkpoint holds already, so that it need not hold them twice, and with them again.

A graph that is stripped says of each large array how it follows from the checkpoint's weights: which one, what the exporter did to it
(transposed it, put a GRU's gates into ONNX's order, folded a norm into a convolution), and whether it was made 8 bits.
What follows from none, stays. No torch.
"""

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from models.errors import BadCheckpoint

_LARGE = 4096
"""Bytes; what is smaller is kept in a graph."""
_OFF = 0.001
"""Share of an array's numbers that may be told one by one: where torch's last bit decides which way one is rounded."""
_QUANTIZED = "_quantized"
_STRIPPED = "weights:"
"""With it begins what an array says that is not there; JSON follows."""


def strip(graph: bytes, weights: Mapping[str, np.ndarray]) -> bytes:
    """A graph without what fill() can put back to the bit."""
    model = onnx.load(io.BytesIO(graph))
    known = {one.name: one for one in model.graph.initializer}
    for one in known.values():
        if len(one.raw_data) <= _LARGE:
            continue
        wanted = numpy_helper.to_array(one)
        for recipe in _recipes(wanted, weights):
            off = np.flatnonzero(_made(recipe, one, known, weights) != wanted)
            if len(off) <= wanted.size * _OFF:
                if len(off):
                    recipe["but"] = [off.tolist(), wanted.flat[off].tolist()]
                one.raw_data, one.doc_string = b"", _STRIPPED + json.dumps(recipe)
                break
    return model.SerializeToString()


def fill(graph: bytes, weights: Mapping[str, np.ndarray]) -> bytes:
    """A graph that was stripped, with the numbers that follow from these weights. Raises BadCheckpoint."""
    try:
        model = onnx.load(io.BytesIO(graph))
    except DecodeError as error:
        raise BadCheckpoint(f"a graph is no ONNX: {error}") from error
    known = {one.name: one for one in model.graph.initializer}
    for name, one in known.items():
        if one.doc_string.startswith(_STRIPPED):
            try:
                values = _made(json.loads(one.doc_string.removeprefix(_STRIPPED)), one, known, weights)
            except (KeyError, ValueError, TypeError, IndexError) as error:
                raise BadCheckpoint(
                    f"a graph wants {name} {list(one.dims)}, which the weights do not give: {error}"
                ) from error
            one.raw_data = np.ascontiguousarray(values).tobytes()
            one.ClearField("doc_string")
    return model.SerializeToString()


def _recipes(wanted: np.ndarray, weights: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """Ways in which an array may have been made."""
    norms = {key.removesuffix(".running_var") for key in weights if key.endswith(".running_var")}
    for key, value in weights.items():
        if value.size != wanted.size:
            continue
        place, _, number = key.removesuffix(".weight").rpartition(".")
        if number.isdigit() and (norm := f"{place}.{int(number) + 1}") in norms:
            yield {"weight": key, "norm": norm}
        yield {"weight": key}
        if value.ndim == 2:
            yield {"weight": key, "order": "transposed"}
            if len(value) % 3 == 0:
                yield {"weight": key, "order": "gates"}


def _made(
    recipe: Mapping[str, Any], one: TensorProto, known: Mapping[str, TensorProto], weights: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Raises KeyError and ValueError where it cannot be."""
    values = weights[recipe["weight"]].astype(np.float32)
    if norm := recipe.get("norm"):
        gain = weights[f"{norm}.weight"].astype(np.float32)
        spread = np.sqrt(weights[f"{norm}.running_var"].astype(np.float32) + np.float32(1e-5))
        values = values * _columns(gain / spread, values)
    match recipe.get("order"):
        case "transposed":
            values = values.T
        case "gates":  # torch: reset, update, new; ONNX: update, reset, hidden
            reset, update, new = np.split(values, 3)
            values = np.concatenate([update, reset, new])
    values = values.reshape(tuple(one.dims))
    if one.data_type == TensorProto.INT8:
        # As onnxruntime.quantization does: symmetric, of each output channel, 7 bits.
        scale = numpy_helper.to_array(known[one.name.removesuffix(_QUANTIZED) + "_scale"])
        values = np.rint(values / _columns(scale, values)).clip(-64, 64).astype(np.int8)
    if "but" in recipe:
        off, numbers = recipe["but"]
        values = np.array(values)
        values.flat[off] = numbers
    return values


def _columns(of_each: np.ndarray, values: np.ndarray) -> np.ndarray:
    """One number for each first index of `values`."""
    return of_each.reshape(-1, *[1] * (values.ndim - 1))
