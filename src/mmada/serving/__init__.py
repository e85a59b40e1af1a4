"""Serving: several requests on one model at the same time."""

from mmada.serving.batcher import Batcher, Cancelled, Ticket

__all__ = ["Batcher", "Cancelled", "Ticket"]
