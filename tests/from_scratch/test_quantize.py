"""4-bit quantization by hand: equal bit for bit to bitsandbytes, and right where it is not."""

import bitsandbytes.functional as bnb
import pytest
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute

from qlora_kit import KitError
from qlora_kit.from_scratch import quantize

SHAPES = ((64, 64), (128, 96), (1000,), (33, 65), (7,), (1,), (300, 1026))


@pytest.fixture(autouse=True)
def _no_compiling():
    """bitsandbytes compiles its portable kernel for each shape, which takes a minute."""
    with torch.compiler.set_stance("force_eager"):
        yield


def tensor(shape, dtype=torch.float32, seed=0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.02
    if x.numel() > 500:
        x.view(-1)[:70] = 0  # a whole block of zeros
    return x.to(dtype)


@pytest.mark.equality
def test_levels_equal_bitsandbytes():
    assert torch.equal(quantize.nf4_levels(), bnb.get_4bit_type("nf4", device="cpu"))
    assert torch.equal(quantize.fp4_levels(), bnb.get_4bit_type("fp4", device="cpu"))
    assert torch.equal(quantize.dynamic_levels(), bnb.create_dynamic_map())


@pytest.mark.equality
@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("block_size", quantize.BLOCK_SIZES)
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_equal_to_bitsandbytes_bit_for_bit(quant_type, block_size, double_quant):
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            x = tensor(shape, dtype)
            packed, state = bnb.quantize_4bit(
                x, blocksize=block_size, quant_type=quant_type, compress_statistics=double_quant
            )
            ours = quantize.quantize_4bit(x, quant_type, block_size, double_quant)
            assert torch.equal(ours.packed, packed.flatten())
            assert torch.equal(ours.absmax, state.absmax)
            if double_quant:
                assert torch.equal(ours.nested.absmax, state.state2.absmax)
                assert torch.equal(ours.nested.offset, state.offset)
                assert torch.equal(ours.nested.levels, state.state2.code)
            portable = _dequantize_4bit_compute(
                packed.flatten(),
                quantize.block_absmax(ours),
                state.code,
                block_size,
                x.shape,
                dtype,
            )
            assert torch.equal(quantize.dequantize_4bit(ours), portable.reshape(shape))
            if shape[-1] % block_size == 0:
                assert torch.equal(
                    quantize.dequantize_4bit(ours), bnb.dequantize_4bit(packed, state)
                )


@pytest.mark.equality
def test_reads_a_weight_of_bitsandbytes():
    from bitsandbytes.nn import Linear4bit

    layer = Linear4bit(128, 64, bias=False, quant_type="nf4", compress_statistics=True).to("cpu")
    ours = quantize.from_bitsandbytes(layer.weight)
    dense = bnb.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert torch.equal(quantize.dequantize_4bit(ours), dense)
    with pytest.raises(KitError, match="not in 4 bits"):
        quantize.from_bitsandbytes(torch.nn.Linear(4, 4).weight)


def test_the_tiny_cases_by_hand():
    x = torch.tensor([1.0, -1.0, 0.0, 0.09])
    kept = quantize.quantize_4bit(x, "nf4", 64)
    assert quantize._unpack(kept.packed, 4).tolist() == [15, 0, 7, 8]
    assert kept.packed.tolist() == [0xF0, 0x78]
    codes, scale = quantize.quantize_absmax(torch.tensor([1.27, -0.5, 0.004]), 8)
    assert codes.tolist() == [127, -50, 0]
    assert scale.item() == pytest.approx(0.01)


def test_int4_is_evenly_spaced_and_keeps_the_largest():
    x = tensor((64, 64))
    restored = quantize.dequantize_4bit(quantize.quantize_4bit(x, "int4", 64))
    absmax = x.view(-1, 64).abs().amax(dim=1)
    assert torch.allclose(restored.view(-1, 64).abs().amax(dim=1), absmax)
    assert ((restored - x).view(-1, 64).abs() <= absmax[:, None] / 14 + 1e-7).all()


@pytest.mark.parametrize("quant_type", quantize.QUANT_TYPES)
def test_zeros_stay_zero_and_shapes_and_dtypes_come_back(quant_type):
    x = torch.zeros(5, 13, dtype=torch.bfloat16)
    restored = quantize.dequantize_4bit(quantize.quantize_4bit(x, quant_type))
    assert torch.equal(restored, x)
    assert restored.dtype == torch.bfloat16


def test_what_cannot_be_quantized_is_refused():
    for bad in (float("inf"), float("-inf"), float("nan")):
        with pytest.raises(KitError, match="1 of 3 values"):
            quantize.quantize_4bit(torch.tensor([0.0, bad, 1.0]))
    with pytest.raises(KitError, match="floats"):
        quantize.quantize_4bit(torch.zeros(0))
    with pytest.raises(KitError, match="floats"):
        quantize.quantize_4bit(torch.tensor([1, 2]))
    with pytest.raises(KitError, match="nf4, fp4, int4"):
        quantize.quantize_4bit(torch.ones(4), "nf5")
    with pytest.raises(KitError, match="block_size"):
        quantize.quantize_4bit(torch.ones(4), block_size=100)
    with pytest.raises(KitError, match="bits"):
        quantize.quantize_absmax(torch.ones(4), 9)
    with pytest.raises(KitError, match="whole bytes"):
        quantize._pack(torch.tensor([1, 2, 3]))


def test_bits_are_what_the_paper_says_and_what_is_stored():
    assert quantize.bits_per_parameter(64, False) == 4.5
    assert quantize.bits_per_parameter(64, True) == pytest.approx(4.127, abs=5e-4)
    x = tensor((1024, 1024))
    for double_quant in (False, True):
        kept = quantize.quantize_4bit(x, double_quant=double_quant)
        stored = 8 * kept.nbytes / x.numel()
        assert stored == pytest.approx(quantize.bits_per_parameter(64, double_quant), abs=1e-4)


def test_nf4_is_nearest_on_normal_values():
    x = torch.randn(1 << 16, generator=torch.Generator().manual_seed(1))
    error = {
        kind: (quantize.dequantize_4bit(quantize.quantize_4bit(x, kind)) - x).norm().item()
        for kind in quantize.QUANT_TYPES
    }
    assert error["nf4"] < error["int4"]
    assert error["nf4"] < error["fp4"]


def test_rounded_puts_the_weights_back(tiny):
    from qlora_kit.models import load

    model, _ = load(str(tiny), "32bit")
    before = {name: p.clone() for name, p in model.named_parameters()}
    head = model.get_output_embeddings().weight.clone()
    with quantize.rounded(model, "nf4") as count:
        assert count == sum(p.numel() for n, p in before.items() if "proj" in n)
        layer = model.model.layers[0].mlp.up_proj.weight
        assert not torch.equal(layer, before["model.layers.0.mlp.up_proj.weight"])
        assert torch.equal(model.get_output_embeddings().weight, head)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
