"""Call loops of `_numba_*` as machine code kept on the disc, without loading numba.

Numba takes 0.5 s of processor time to be imported and to load what it compiled, more than a
short job works. So its code for a loop is written to a file once, and afterwards llvmlite, on
which numba stands, links and calls it (docs/decisions/007-loops-without-numba.md).

A loop that is called so allocates nothing and is told the types of its arguments; it must be
right for all that fit them. What cannot be kept on the disc is called by way of numba.
"""

import ctypes
import hashlib
import logging
import os
import re
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np

__all__ = ["CompiledLoop"]

log = logging.getLogger(__name__)

_FOLDER = Path(__file__).parent
# of the C library, which every process has
_COMMON = frozenset({"cos", "cosf", "memcpy", "memmove", "memset", "sin", "sinf"})
_FREE = "@NRT_MemInfo_call_dtor(ptr %0)"
_FREES = r"declare void @NRT_MemInfo_call_dtor\(ptr\)[^\n]*"
_SCALARS: dict[str, Any] = {"i8": ctypes.c_int64, "f8": ctypes.c_double}
_linking = threading.Lock()


class CompiledLoop:
    """A loop of a `_numba_*` module; it gives the processor free to other threads.

    Args:
        module: in which it is, as `_numba_sums`.
        name: of the function, which returns nothing.
        arguments: their types, as in `f4[2] i8`: dtype with the number of axes of an array, which
            must be contiguous, or of a number.
    """

    def __init__(self, module: str, name: str, arguments: str) -> None:
        self.module = module
        self.name = name
        self.arguments = arguments.split()
        self._call: Callable[..., None] | None = None

    def __call__(self, *values: Any) -> None:
        """Call the loop."""
        if self._call is None:
            with _linking:
                self._call = self._call or self._link()
        self._call(*values)

    def _link(self) -> Callable[..., None]:
        path = _code_folder() / f"{self.module}.{self.name}-{_fingerprint()}.o"
        try:
            code = path.read_bytes()
        except OSError:
            found = _compile(self.module, self.name, self.arguments)
            if found is None:
                log.debug("%s.%s needs numba", self.module, self.name)
                return getattr(_module(self.module), self.name)  # type: ignore[no-any-return]
            code = found
            _write(path, code)
        return _linked(code, self.name, self.arguments)


def _linked(code: bytes, name: str, arguments: Sequence[str]) -> Callable[..., None]:
    """Link machine code, and give a function that hands arguments over as numba does."""
    engine = _engine()
    engine.add_object_file(llvm.object_file.ObjectFileRef.from_data(code))
    engine.finalize_object()
    types: list[Any] = []
    for argument in arguments:
        types += [_SCALARS[argument]] if argument in _SCALARS else _array_types(argument)
    prototype = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *types)
    function = prototype(engine.get_function_address(_symbol(name, arguments)))

    def call(*values: Any) -> None:
        flat: list[Any] = []
        for argument, value in zip(arguments, values, strict=True):
            flat += [value] if argument in _SCALARS else _array_parts(argument, value)
        result, error = ctypes.c_void_p(), ctypes.c_void_p()
        if function(ctypes.addressof(result), ctypes.addressof(error), *flat):
            raise RuntimeError(f"loop {name} ended with an error")

    return call


def _array_types(argument: str) -> list[Any]:
    """List the parts of an array: owner, parent, items, bytes of one, data, shape, strides."""
    word, pointer = ctypes.c_int64, ctypes.c_void_p
    return [pointer, pointer, word, word, pointer] + 2 * _n_axes(argument) * [word]


def _array_parts(argument: str, array: Any) -> list[Any]:
    dtype = np.dtype(argument.partition("[")[0])
    if array.dtype != dtype or array.ndim != _n_axes(argument) or not array.flags.c_contiguous:
        raise TypeError(
            f"loop wants a contiguous array {argument}: got {array.dtype} {array.shape}"
        )
    return [None, None, array.size, array.itemsize, array.ctypes.data, *array.shape, *array.strides]


def _n_axes(argument: str) -> int:
    return int(argument.partition("[")[2][:-1])


def _symbol(name: str, arguments: Sequence[str]) -> str:
    return "_".join(["verglas", name, *arguments]).replace("[", "x").replace("]", "")


def _compile(module: str, name: str, arguments: Sequence[str]) -> bytes | None:
    """Let numba compile a loop; None where the code needs numba beside it."""
    import numba

    types = tuple(_numba_type(numba.types, argument) for argument in arguments)
    dispatcher = getattr(_module(module), name)
    left_out = ("nopython", "parallel")
    options = {k: v for k, v in dispatcher.targetoptions.items() if k not in left_out}
    compiled = numba.njit(**options)(dispatcher.py_func)
    compiled.compile(types)
    symbol = compiled.overloads[types].fndesc.llvm_func_name
    # what is handed over has no owner, so that nothing is ever freed; what allocates is refused
    text = re.sub(
        _FREES, f"define internal void {_FREE} {{\n  ret void\n}}", compiled.inspect_llvm(types)
    )
    code = llvm.parse_assembly(text)
    function = code.get_function(symbol)
    n_expected = 2 + sum(
        1 if argument in _SCALARS else len(_array_types(argument)) for argument in arguments
    )
    if len(list(function.arguments)) != n_expected:
        return None
    function.name = _symbol(name, arguments)
    for other in code.functions:
        if not other.is_declaration and other.name != function.name:
            other.linkage = "internal"
    machine = _machine()
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(code, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
    needed = {f.name for f in code.functions if f.is_declaration}
    if any(not name.startswith("llvm.") for name in needed - _COMMON):
        return None
    machine_code: bytes = machine.emit_object(code)
    return machine_code


def _numba_type(types: Any, argument: str) -> Any:
    dtype = getattr(types, np.dtype(argument.partition("[")[0]).name)
    return dtype if argument in _SCALARS else types.Array(dtype, _n_axes(argument), "C")


def _module(name: str) -> Any:
    return import_module(f"{__package__}.{name}")


@cache
def _machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        codemodel="jitdefault",
        jit=True,
    )


@cache
def _engine() -> Any:
    """Make what holds the code for the rest of this process."""
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())


@cache
def _fingerprint() -> str:
    """Tell code apart by its source, by who compiled it, and by the processor it is for."""
    digest = hashlib.sha256()
    for path in sorted(_FOLDER.glob("_*.py")):
        digest.update(path.read_bytes())
    features = llvm.get_host_cpu_features().flatten()
    digest.update(f"{version('numba')} {llvm.llvm_version_info} {features}".encode())
    return digest.hexdigest()[:16]


@cache
def _code_folder() -> Path:
    """Choose where numba would keep its own: beside the source, or where the user may write."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return Path(chosen)
    beside = _FOLDER / "__pycache__"
    if os.access(beside if beside.exists() else _FOLDER, os.W_OK):
        return beside
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "verglas"


def _write(path: Path, code: bytes) -> None:
    """Keep code for the next process, and drop what it replaces; without room do without."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(code)
        os.replace(temporary, path)
    except OSError as error:
        log.debug("code of %s is not kept: %s", path.name, error)
