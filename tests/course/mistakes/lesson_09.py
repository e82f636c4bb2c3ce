"""Typical mistakes of lesson 09: bits and bytes, percentiles, and what to bring."""

import math
import statistics

MISTAKES = {
    "09.1": [
        (3.5, "has a scale, too"),
        (7e9 * 4.5 / 1e9, "gigabits"),
        (7 * 20 / 8, "not each weight"),
        (7 * 5 / 8, "not 32"),
        (14, "f16"),
        (7e9 * 4.5 / 8, "are bytes"),
        (5, "for one weight"),
    ],
    "09.2": [
        (lambda values, share: values[math.ceil(share * len(values)) - 1], "sort them"),
        (lambda values, share: sorted(values)[int(share * len(values))], "from 0"),
        (lambda values, share: statistics.mean(values), "mean of all"),
        (lambda values, share: statistics.median(values), "between two"),
        (lambda values, share: sorted(values)[int(share * len(values)) - 1], "rounded up"),
        (lambda values, share: max(values), "Half of"),
        (lambda values, share: 5.0, "is the largest"),
    ],
    "09.3": [
        ("merged safetensors", "whole model in 16 bits"),
        ("five GGUF files", "side by side"),
        ("a GGUF", "Answer with"),
    ],
}
