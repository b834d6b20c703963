"""Builds the pipeline's own programs from their pinned Go modules, once, into a cache outside the tree.

``python -m tools.toolchain`` builds what is missing; ``path(name)`` says where a program lies, or None when it was not
built. Only the standard library is used, so that a clean machine needs Python and either Go or a package index.
"""

from tools.toolchain.cache import path, require
from tools.toolchain.recipes import PROGRAMS

__all__ = ["PROGRAMS", "path", "require"]
