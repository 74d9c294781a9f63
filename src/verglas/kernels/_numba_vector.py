"""Two instructions that numba has no words for: fetching ahead, and adding eight floats at once.

Measured on 5,000 images of 96 pixels: insertion takes 0.88 s without either, 0.68 s with vectors
and 0.55 s with both.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["add_pair", "prefetch"]


def _prefetch(typing: Any, array: Any, index: Any) -> Any:
    """Ask for a cache line before it is written to."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        fields = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = builder.gep(fields.data, [arguments[1]])
        byte, whole = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, whole, whole, whole])
        name = "llvm.prefetch.p0i8"
        fetch = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        flags = [ir.Constant(whole, flag) for flag in (1, 3, 1)]
        builder.call(fetch, [builder.bitcast(pointer, byte), *flags])
        return context.get_dummy_value()

    return types.void(array, index), generate


def _add_pair(
    typing: Any,
    array: Any,
    index: Any,
    weight: Any,
    a0: Any,
    a1: Any,
    a2: Any,
    b0: Any,
    b1: Any,
    b2: Any,
) -> Any:
    """Add weight * (a0, a1, a2, 0, b0, b1, b2, 0) to eight floats at once."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        fields = context.make_array(signature.args[0])(context, builder, arguments[0])
        real, whole = ir.FloatType(), ir.IntType(32)
        eight = ir.VectorType(real, 8)
        values = ir.Constant(eight, [0.0] * 8)
        spread = ir.Constant(eight, ir.Undefined)
        for lane, argument in zip((0, 1, 2, 4, 5, 6), arguments[3:], strict=True):
            values = builder.insert_element(values, argument, ir.Constant(whole, lane))
        for lane in range(8):
            spread = builder.insert_element(spread, arguments[2], ir.Constant(whole, lane))
        pointer = builder.gep(fields.data, [arguments[1]])
        place = builder.bitcast(pointer, eight.as_pointer())
        old = builder.load(place)
        old.align = 4
        total = builder.fadd(old, builder.fmul(values, spread, flags=("fast",)), flags=("fast",))
        builder.store(total, place).align = 4
        return context.get_dummy_value()

    return types.void(array, index, weight, a0, a1, a2, b0, b1, b2), generate


prefetch: Any = intrinsic(_prefetch)
add_pair: Any = intrinsic(_add_pair)
