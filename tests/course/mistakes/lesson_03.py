"""Typical mistakes of lesson 03: gradients by hand, and a plan."""


def gradients(s_power=1, swap=False, turn=False):
    def gradient(x, dy, A, B, s):
        dA, dB = s**s_power * (dy @ B).t() @ x, s**s_power * dy.t() @ (x @ A.t())
        if turn:
            dA = dA.t()
        return (dB, dA) if swap else (dA, dB)

    return gradient


MISTAKES = {
    "03.1": [
        (gradients(s_power=0), "scale s"),
        (gradients(swap=True), "swapped"),
        (gradients(turn=True), "transposed"),
        (lambda x, dy, A, B, s: dy, "two things"),
    ],
    "03.2": [(8192, "does not fit"), (512, "a longer one"), (3000, "Choose one")],
}
