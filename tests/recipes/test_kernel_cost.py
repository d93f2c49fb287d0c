"""The kernel's machine code costs no more than it did; compiled for one architecture, which needs no GPU."""

import pytest

triton = pytest.importorskip("triton", reason="the fused kernel needs Triton")

from recipes.benchmarks import kernel_cost  # noqa: E402

TOKENS, DISTANCE = 32768, 8192


@pytest.fixture(scope="module")
def hopper():
    if triton.knobs.runtime.interpret:
        pytest.skip("TRITON_INTERPRET is set: nothing is compiled")
    try:
        kernel_cost.find_tools()
    except ValueError as error:
        pytest.skip(str(error))
    return kernel_cost.kernel_cost(90, TOKENS)


def test_the_long_loops_issue_no_more_than_they_did(hopper):
    far, near = hopper["spans"]["far"], hopper["spans"]["near"]
    assert far["per_element"] <= 5.27 and near["per_element"] <= 4.18
    # a logit costs scale and reference in one, the exponential, a sum, and of a far one the sum of its square
    assert far["per_element_by_kind"]["exponentials"] == near["per_element_by_kind"]["exponentials"] == 1
    assert far["per_element_by_kind"]["multiply-adds"] == 2 and near["per_element_by_kind"]["multiply-adds"] == 1
    for loop in (far, near):
        assert not {"maxima", "multiplications", "conversions"} & set(loop["per_element_by_kind"])
        # four more than one each of 64 where a step's squares join those before
        assert loop["per_element_by_kind"]["additions"] <= 68 / 64


def test_neither_registers_nor_shared_memory_keep_two_programs_off_a_multiprocessor(hopper):
    assert hopper["stack_bytes"] == 0
    assert hopper["registers"] * hopper["tile"]["warps"] * 32 * 2 <= 65536
    assert (hopper["shared_bytes"] + 1024) * 2 <= 228 * 1024


def test_the_bounds_are_those_of_the_data_sheets(hopper):
    cycles = hopper["spans"]["far"]["cycles_a_step"]
    # 128 x 128 exponentials, 16 a cycle; 128^3 multiply-adds, 2,048 a cycle; 8 warps on 4 schedulers
    assert cycles["exponentials"] == cycles["tensor_cores"] == 1024
    assert cycles["issue"] == 2 * hopper["spans"]["far"]["instructions"]
    # 1.755 GHz are sold as boost, 1.98 GHz as the most
    assert 1.7e9 < hopper["clock_hz"] < 2e9
    # all exponentials of the rows with a far key, none besides
    exponentials = kernel_cost.HEADS * (TOKENS**2 - DISTANCE**2) / 2
    least = exponentials / (16 * 132 * hopper["clock_hz"])
    assert least < hopper["predicted_window_s"] < 1.03 * least


@pytest.mark.parametrize(("rows", "keys"), [(128, 128), (128, 64), (64, 32)])
def test_a_windows_steps_cover_its_pairs_of_queries_and_keys(rows, keys):
    steps = kernel_cost.window_steps(rows, keys, TOKENS)
    heads = kernel_cost.HEADS
    area = {span: count * rows * keys for span, count in steps.items()}
    far, seen = heads * (TOKENS - DISTANCE) ** 2 / 2, heads * (TOKENS**2 - DISTANCE**2) / 2
    assert far <= area["far"] + area["border"] <= 1.02 * far and area["border"] < 0.02 * far
    assert seen <= sum(area.values()) - area["reference"] <= 1.02 * seen
    assert area["reference"] == area["diagonal"]


def test_loops_are_found_where_waits_lie_behind_the_code():
    listing = """
.L_x_0:
        /*0000*/                   UIADD3 UR4, UR4, 0x1, URZ ;
        /*0010*/              @!P1 BRA `(.L_x_2) ;
.L_x_1:
        /*0020*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR20], RZ, !UPT ;
        /*0030*/              @!PT LDS RZ, [RZ] ;
        /*0040*/                   MUFU.EX2 R8, R8 ;
        /*0050*/               @P0 BRA `(.L_x_0) ;
.L_x_4:
        /*0060*/                   FADD R8, R8, R9 ;
        /*0070*/              @!P0 BRA `(.L_x_4) ;
        /*0080*/                   EXIT ;
.L_x_2:
        /*0090*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [UR4], R2 ;
        /*00a0*/              @!P1 BRA `(.L_x_2) ;
        /*00b0*/                   BRA `(.L_x_1) ;
"""
    (loop,) = kernel_cost.product_loops(listing)
    assert loop == ["UIADD3", "BRA", "HGMMA.64x128x16.F32.BF16", "LDS", "MUFU.EX2", "BRA"]
    kinds = [kernel_cost.kind_of(operation) for operation in loop]
    assert kinds == ["other", "other", "tensor cores", "memory", "exponentials", "other"]


def test_a_missing_disassembler_is_named(monkeypatch, tmp_path):
    nothing = type(triton.knobs.nvidia).__dict__["nvdisasm"]
    monkeypatch.setattr(nothing, "default_path", str(tmp_path / "nvdisasm"))
    with pytest.raises(ValueError, match=r"needs Triton's wheel for Linux and its tools\. Cannot find nvdisasm\."):
        kernel_cost.find_tools()


def test_an_architecture_that_is_not_described_is_refused():
    with pytest.raises(ValueError, match=r"architectures=75 is not described here; there are \[80, 90, 100\]"):
        kernel_cost.KernelCostConfig(architectures=(75,))
