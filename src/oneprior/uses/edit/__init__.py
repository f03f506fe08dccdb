"""Edits of a given sample: a code that reproduces it, decoded under another condition or another model."""

from oneprior.uses.edit.code import Code, decode, encode, translate

__all__ = ["Code", "decode", "encode", "translate"]
