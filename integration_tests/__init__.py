"""Wetread against real sockets, real servers and foreign peers."""
