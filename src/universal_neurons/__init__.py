"""Universal neurons: which MLP neurons every language model grows, whatever its random seed."""

from importlib.metadata import version

__version__ = version("universal-neurons")
