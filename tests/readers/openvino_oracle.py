"""Writes graphs with OpenVINO itself, and what OpenVINO says of them; run by hand.

``python tests/readers/openvino_oracle.py tests/readers/openvino`` wrote what lies there, in an
environment of its own that holds OpenVINO 2026.4.1 (59 MB, with a package for telemetry: neither
is asked of everyone who runs the tests).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np


def constant(draw, kind, shape):
    """Return a constant of any element type, with values that no other one has."""
    from openvino import Shape, op

    high = {"u1": 2, "u2": 4, "u3": 8, "u4": 16, "u6": 64, "i4": 8, "nf4": 2, "f4e2m1": 5}.get(
        kind.to_string(), 100
    )
    values = draw.integers(0, high, int(np.prod(shape)), dtype=np.int64)
    return op.Constant(kind, Shape(shape), values.tolist())


def embedding(ops, draw):
    """A table that is looked up: shapes with an open dimension, named ports."""
    from openvino import Model

    ids = ops.parameter([-1, 4], np.int64, name="input_ids")
    table = ops.constant(draw.standard_normal((30, 8)).astype(np.float32))
    found = ops.gather(table, ids, ops.constant(np.int64(0)))
    found.output(0).get_tensor().set_names({"last_hidden_state"})
    ids.output(0).get_tensor().set_names({"input_ids"})
    return Model([found], [ids], "embedding")


def packed(ops, draw):
    """A constant of every type that a graph can be given, in shapes that fill no whole byte."""
    from openvino import Model, Type

    shapes = {
        "f64": [3], "f32": [3, 2], "f16": [5], "bf16": [3], "i64": [2], "i32": [3], "i16": [5],
        "i8": [7], "u64": [3], "u32": [5], "u16": [3], "u8": [9], "boolean": [3], "f8e4m3": [7],
        "f8e5m2": [5], "f8e8m0": [3], "u1": [19], "u2": [7], "u3": [11], "u4": [3, 5], "u6": [5],
        "i4": [5, 3], "nf4": [9], "f4e2m1": [5],
    }  # fmt: skip
    outputs = []
    for name, shape in shapes.items():
        held = constant(draw, getattr(Type, name), shape)
        held.set_friendly_name(f"held_{name}")
        outputs.append(ops.result(held))
    x = ops.parameter([2], np.float32, name="x")
    return Model([*outputs, ops.result(x)], [x], "packed")


def branched(ops, draw):
    """Constants in both bodies of a condition."""
    from openvino import Model

    x = ops.parameter([1, 8], np.float32, name="x")
    condition = ops.parameter([], np.bool_, name="condition")
    choice = ops.if_op(condition.output(0))
    bodies = []
    for rows in (8, 16):
        inner = ops.parameter([1, 8], np.float32)
        weights = ops.constant(draw.standard_normal((8, rows)).astype(np.float16))
        widened = ops.convert(weights, "f32")
        result = ops.result(ops.matmul(inner, widened, False, False))
        bodies.append((Model([result], [inner]), inner, result))
    choice.set_then_body(bodies[0][0])
    choice.set_else_body(bodies[1][0])
    choice.set_input(x.output(0), bodies[0][1], bodies[1][1])
    out = choice.set_output(bodies[0][2], bodies[1][2])
    return Model([ops.result(out)], [x, condition], "branched")


def constants_of(model):
    """Return every constant, those in bodies too: element type, elements, bytes."""
    found = []
    for one in model.get_ops():
        if one.get_type_name() == "Constant":
            kind = one.get_element_type().to_string()
            found.append([kind, int(np.prod(one.shape)), one.get_byte_size()])
        elif one.get_type_name() == "If":
            for number in range(2):
                found.extend(constants_of(one.get_function(number)))
    return found


def sides_of(ports):
    return [
        [
            sorted(port.get_names()),
            port.element_type.to_string(),
            [size.get_length() if size.is_static else None for size in port.partial_shape],
        ]
        for port in ports
    ]


def main():
    """Write the graphs and the facts."""
    import openvino
    from openvino import opset13 as ops

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"version": openvino.get_version()}
    for number, make in enumerate((embedding, packed, branched)):
        path = folder / f"{make.__name__}.xml"
        openvino.save_model(make(ops, np.random.default_rng(number)), path, compress_to_fp16=False)
        # What another process would read, not what was built.
        model = openvino.Core().read_model(path)
        facts[make.__name__] = {
            "name": model.get_friendly_name(),
            "constants": constants_of(model),
            "inputs": sides_of(model.inputs),
            "outputs": sides_of(model.outputs),
        }
    (folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
