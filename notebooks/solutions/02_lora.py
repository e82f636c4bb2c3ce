"""Solutions of lesson 02; copy a function into the notebook's stub."""


# Exercise 02.1: B is (out, rank), A is (rank, in)
def adapter_parameters(out_features, in_features, rank):
    return rank * (out_features + in_features)


# Exercise 02.2: the frozen layer, and two thin products on top
def lora_forward(x, W, A, B, alpha):
    rank = A.shape[0]
    return x @ W.t() + (alpha / rank) * (x @ A.t()) @ B.t()


# Exercise 02.3: B's gradient is dy (A x)^T, and here A is zero
zero_gradient = "B"

ANSWERS = {"02.1": adapter_parameters, "02.2": lora_forward, "02.3": zero_gradient}
