"""Build of the compiled core: every ``dsfast/_core/*.pyx`` becomes one extension module."""

import os
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup

Options.warning_errors = True

CORE = Path("dsfast/_core")
CFLAGS = [
    "-O2",
    "-DNDEBUG",
    "-fno-strict-aliasing",
    "-Wno-unreachable-code",
    "-g1",
    "-fno-omit-frame-pointer",
]
# DSFAST_SANITIZE=1 builds for tools/sanitize: every access to memory is checked.
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
if not os.environ.get("DSFAST_SANITIZE"):
    SANITIZE = []
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "embedsignature": True,
}

# DSFAST_ONLY=name[,name] limits a build to some modules while working on them.
wanted = [name for name in os.environ.get("DSFAST_ONLY", "").split(",") if name]
sources = sorted(path for path in CORE.glob("*.pyx") if not wanted or path.stem in wanted)

setup(
    ext_modules=cythonize(
        [
            Extension(
                f"dsfast._core.{path.stem}",
                [str(path)],
                extra_compile_args=CFLAGS + SANITIZE,
                extra_link_args=SANITIZE,
            )
            for path in sources
        ],
        compiler_directives=DIRECTIVES,
        nthreads=int(os.environ.get("DSFAST_JOBS", "0")),
    ),
)
