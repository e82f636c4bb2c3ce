"""The course for a room: packed, installed without a network, checked, its results read."""
