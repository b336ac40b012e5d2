"""The simulated MoE layer: weights, inputs, routers and experts as batched tensor programs over trials."""

from simgap.moe.inputs import open_inputs
from simgap.moe.layer import SITES, Block, Layer, group_bytes, group_numbers, group_trials, simulate
from simgap.moe.routers import Routing, route
from simgap.moe.weights import Weights, draw_weights

__all__ = [
    "SITES",
    "Block",
    "Layer",
    "Routing",
    "Weights",
    "draw_weights",
    "group_bytes",
    "group_numbers",
    "group_trials",
    "open_inputs",
    "route",
    "simulate",
]
