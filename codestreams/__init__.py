"""Compressed pixel data: from items to streams to stored values; below the node and the worker, which both decode."""
