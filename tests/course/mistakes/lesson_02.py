"""Typical mistakes of lesson 02: counting and computing adapters."""


def lora(scale, base=True, inside=False):
    def forward(x, W, A, B, alpha):
        low, s = x @ A.t() @ B.t(), scale(alpha, A.shape[0])
        whole = x @ W.t() * (s if inside else 1)
        return whole * base + s * low

    return forward


MISTAKES = {
    "02.1": [
        (lambda out, inside, r: out * inside, "whole matrix"),
        (lambda out, inside, r: 2 * r * inside, "differ"),
        (lambda out, inside, r: r * out * inside, "do not multiply"),
        (lambda out, inside, r: r * (out + inside) + out, "16,896"),
    ],
    "02.2": [
        (lora(lambda alpha, r: 1), "not scaled"),
        (lora(lambda alpha, r: alpha), "divide it"),
        (lora(lambda alpha, r: r / alpha), "upside down"),
        (lora(lambda a, r: a / 6), "inputs"),
        (lora(lambda alpha, r: alpha / r**0.5), "rsLoRA"),
        (lambda x, W, A, B, alpha: W @ x, "Each row of x"),
        (lora(lambda alpha, r: alpha / r, base=False), "missing"),
        (lora(lambda alpha, r: alpha / r, inside=True), "Only the adapter"),
    ],
    "02.3": [("A", "its gradient"), ("both", "nothing could"), ("neither", "through the other")],
}
