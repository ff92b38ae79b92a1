"""Scaled arithmetic bit by bit, against Python's exact fractions and NumPy's long doubles."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rnn_jax.numerics import (
    ZERO_EXPONENT,
    Scaled,
    add,
    align,
    log_norm,
    log_root_mean_square,
    power_of_two,
    rescale,
)

DTYPES = [jnp.float32, jnp.float64]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)

# Compiled once: every example has the same shapes.
jit_rescale, jit_add, jit_align, jit_log_norm = map(jax.jit, (rescale, add, align, log_norm))


def vectors(dtype, smallest, largest):
    """Three numbers, zeros among them, with magnitudes up to those; never subnormal."""
    width = 8 * np.dtype(dtype).itemsize
    magnitudes = st.floats(float(dtype(smallest)), float(dtype(largest)), width=width)
    numbers = st.one_of(st.just(0.0), magnitudes, magnitudes.map(lambda x: -x))
    return arrays(dtype, 3, elements=numbers)


def exact(tree, exponent=0):
    """The numbers of a pytree times 2**exponent, as fractions."""
    numbers = np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)])
    # 2**ZERO_EXPONENT has a billion digits: never formed for a zero.
    scale = Fraction(2) ** int(exponent) if numbers.any() else Fraction(0)
    return [Fraction(x) * scale for x in numbers.tolist()]


# ---- Powers of two ------------------------------------------------------------------------------


@each_dtype
def test_every_power_of_two(dtype):
    info = np.finfo(dtype)
    normal = np.arange(info.minexp, info.maxexp)
    expected = np.ldexp(np.ones(1, dtype), normal)
    np.testing.assert_array_equal(power_of_two(jnp.asarray(normal), jnp.dtype(dtype)), expected)
    outside = jnp.array([info.minexp - 1, -5000, ZERO_EXPONENT, info.maxexp, 5000, 2**30])
    zero, top = 0, float(expected[-1])
    for integer in (jnp.int32, jnp.int64):
        got = power_of_two(outside.astype(integer), jnp.dtype(dtype))
        assert got.tolist() == [zero] * 3 + [top] * 3
        assert got.dtype == dtype


# ---- rescale ------------------------------------------------------------------------------------


def check_rescale(tree, offset):
    scaled = jit_rescale(tree, jnp.int32(offset))
    assert scaled.exponent.dtype == jnp.int32
    for leaf, original in zip(*map(jax.tree.leaves, (scaled.mantissa, tree)), strict=True):
        assert leaf.dtype == original.dtype
    peak = max(np.abs(np.asarray(leaf, np.float64)).max() for leaf in jax.tree.leaves(tree))
    if peak == 0:
        assert scaled.exponent == ZERO_EXPONENT
    else:
        largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(scaled.mantissa))
        assert 1 <= largest < 2
        assert exact(scaled.mantissa, scaled.exponent) == exact(tree, offset)


# The smallest entry stays normal beside the largest: 2**-126 and 2**-1022 are the ends.


@given(vectors(np.float32, 1e-18, 1e18), vectors(np.float32, 1e-18, 1e18), st.integers(-9999, 9999))
def test_rescale_is_exact_in_float32(a, b, offset):
    check_rescale({"a": jnp.asarray(a), "b": jnp.asarray(b).reshape(3, 1)}, offset)


@given(
    vectors(np.float64, 1e-150, 1e150), vectors(np.float64, 1e-150, 1e150), st.integers(-9999, 9999)
)
def test_rescale_is_exact_in_float64(a, b, offset):
    check_rescale({"a": jnp.asarray(a), "b": jnp.asarray(b).reshape(3, 1)}, offset)


@given(vectors(np.float32, 1e-18, 1e18))
def test_rescale_is_exact_in_bfloat16_and_mixtures(a):
    half = jnp.asarray(a).astype(jnp.bfloat16)
    check_rescale({"a": half, "b": half.reshape(3, 1)}, 0)
    check_rescale({"a": half, "b": jnp.asarray(a).reshape(3, 1)}, 0)


@each_dtype
def test_rescale_of_any_normal_number(dtype):
    """From the smallest normal number to the largest number of all, one by one."""
    info = np.finfo(dtype)
    numbers = np.ldexp(np.array(1.2345, dtype), np.arange(info.minexp, info.maxexp))
    numbers = np.append(numbers, [info.max, info.tiny]).astype(dtype)
    mantissas, exponents = jax.jit(jax.vmap(rescale))(jnp.asarray(numbers)[:, None])
    mantissas = np.asarray(mantissas[:, 0])
    restored = np.ldexp(mantissas.astype(np.longdouble), np.asarray(exponents))
    np.testing.assert_array_equal(restored, numbers)
    # 2**-127 is no normal number, so the last factor of two stays with the mantissa.
    limits = np.where(numbers < np.ldexp(dtype(1), info.maxexp - 1), 2, 4)
    assert np.all((mantissas >= 1) & (mantissas < limits))


@each_dtype
def test_rescale_of_what_is_no_number(dtype):
    tree = [jnp.array([1, jnp.nan], dtype), jnp.array([-jnp.inf, 0], dtype)]
    mantissa = rescale(tree, 5).mantissa
    assert jnp.isnan(mantissa[0]).tolist() == [False, True]
    assert mantissa[1].tolist() == [-jnp.inf, 0]
    infinite = rescale(tree[1]).mantissa
    assert infinite.tolist() == [-jnp.inf, 0]
    for zero in (rescale(jnp.zeros(2, dtype), 7), rescale(jnp.zeros(0, dtype))):
        assert zero.exponent == ZERO_EXPONENT
        assert not jnp.any(zero.mantissa)


@each_dtype
def test_subnormal_numbers_are_kept_or_zero(dtype):
    """Devices differ in whether they flush them; none may turn them into something else."""
    tiny = 3 * np.finfo(dtype).smallest_subnormal
    scaled = rescale(jnp.array([tiny, 0], dtype))
    assert exact(scaled.mantissa, scaled.exponent)[0] in (0, exact(np.array(tiny))[0])
    assert float(log_norm(jnp.array([tiny], dtype))) in (-math.inf, pytest.approx(np.log(tiny)))


# ---- Sums ---------------------------------------------------------------------------------------

exponents = st.one_of(
    st.integers(-200, 200), st.integers(-100_000, 100_000), st.just(ZERO_EXPONENT)
)


def scaled_pair(a, exponent):
    """A `Scaled` of two leaves; zero is what `rescale` makes of it."""
    assume(exponent != ZERO_EXPONENT or not a.any())
    return Scaled((jnp.asarray(a), jnp.asarray(-a[:1])), jnp.int32(exponent))


@example(np.zeros(3, np.float32), 1024, np.zeros(3, np.float32), ZERO_EXPONENT)
@given(vectors(np.float32, 1, 2), exponents, vectors(np.float32, 1, 2), exponents)
def test_add_against_fractions(a, i, b, j):
    first, second = scaled_pair(a, i), scaled_pair(b, j)
    total = jit_add(first, second)
    if {i, j} == {ZERO_EXPONENT}:
        assert total.exponent == ZERO_EXPONENT
        return
    assert total.exponent == max(i, j)
    unit = Fraction(2) ** max(i, j)
    terms = (exact(s.mantissa, s.exponent) for s in (first, second))
    for got, x, y in zip(exact(total.mantissa), *terms, strict=True):
        # One rounding of a sum below 4, and what falls below 2**-126.
        assert abs(got - (x + y) / unit) <= Fraction(2) ** -23
        if x == 0 or y == 0 or i == j:
            assert abs(got - (x + y) / unit) <= Fraction(2) ** -126 + abs(got) * Fraction(2) ** -24


@each_dtype
@given(data=st.data())
def test_scaled_sums_are_plain_sums(dtype, data):
    """Where nothing under- or overflows, the very same bits."""
    a, b = (jnp.asarray(data.draw(vectors(dtype, 1e-9, 1e9))) for _ in range(2))
    total = jit_add(jit_rescale(a), jit_rescale(b))
    assert exact(total.mantissa, total.exponent) == exact(a + b)


@given(st.lists(st.tuples(vectors(np.float64, 1, 2), exponents), min_size=3, max_size=3))
def test_align(terms):
    terms = [scaled_pair(a, exponent) for a, exponent in terms]
    mantissas, exponent = jit_align(*terms)
    assert exponent == max(term.exponent for term in terms)
    for term, mantissa in zip(terms, mantissas, strict=True):
        shift = int(term.exponent) - int(exponent)
        expected = exact(term.mantissa, shift) if shift >= -1022 else [0] * 4
        assert exact(mantissa) == expected


def test_sums_keep_what_is_no_number():
    one = rescale(jnp.ones(2))
    total = add(one, Scaled(jnp.array([jnp.nan, jnp.inf]), jnp.int32(-5)))
    assert jnp.isnan(total.mantissa[0])
    assert jnp.isposinf(total.mantissa[1])


# ---- Norms --------------------------------------------------------------------------------------


def reference_log_norm(*leaves):
    numbers = np.concatenate([np.ravel(np.asarray(leaf)) for leaf in leaves])
    numbers = numbers.astype(np.longdouble)  # 15 bits of exponent where it is wider than double
    peak = np.abs(numbers).max()
    return float(np.log(peak) + np.log(np.sum((numbers / peak) ** 2)) / 2)


@each_dtype
@given(data=st.data())
def test_log_norm(dtype, data):
    smallest, largest = {jnp.float32: (1e-37, 1e37), jnp.float64: (1e-300, 1e300)}[dtype]
    a, b = (data.draw(vectors(dtype, smallest, largest)) for _ in range(2))
    got = jit_log_norm({"a": jnp.asarray(a), "b": jnp.asarray(b)[:, None]})
    assert got.dtype == dtype
    if a.any() or b.any():
        # A few roundings of a number up to 1000, and of numbers near one if that is near zero.
        tolerance = 4 * np.finfo(dtype).eps
        np.testing.assert_allclose(got, reference_log_norm(a, b), rtol=tolerance, atol=tolerance)
    else:
        assert got == -jnp.inf


@each_dtype
@pytest.mark.parametrize("form", [log_norm, jit_log_norm, lambda x: jax.vmap(log_norm)(x[None])[0]])
def test_log_norm_at_the_ends_of_the_range(dtype, form):
    info = np.finfo(dtype)
    for number in (info.tiny, info.max / 8, info.max / 2, info.max):
        x = np.full(3, number, dtype)
        np.testing.assert_allclose(form(jnp.asarray(x)), reference_log_norm(x), rtol=4 * info.eps)


@pytest.mark.parametrize("number", [0.0, 1e-37, 1e-30, 1.0, 1e30, 3e38])
def test_log_norm_of_numbers_known_to_the_compiler(number):
    """XLA moves constant factors out of products, where they may overflow on their own."""
    constant = jax.jit(lambda: log_norm(jnp.full(3, number, jnp.float32)))
    scaled = jax.jit(lambda: log_norm(rescale(jnp.full(3, number, jnp.float32), -5)))
    expected = math.log(number) + math.log(3) / 2 if number else -math.inf
    assert float(constant()) == pytest.approx(expected, rel=1e-6)
    assert float(scaled()) == pytest.approx(expected - 5 * math.log(2), rel=1e-6)


@given(vectors(np.float32, 1e-3, 1e3), st.integers(-10_000_000, 10_000_000))
def test_log_norm_of_scaled_numbers(a, exponent):
    assume(a.any())
    got = jit_log_norm(jit_rescale(jnp.asarray(a), jnp.int32(exponent)))
    expected = reference_log_norm(a) + exponent * math.log(2)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_log_norm_of_what_is_no_number():
    for dtype in (*DTYPES, jnp.bfloat16):
        assert log_norm(jnp.zeros(3, dtype)) == -jnp.inf
        assert log_norm(rescale(jnp.zeros(3, dtype), 100)) == -jnp.inf
        assert log_norm(jnp.array([1, -jnp.inf], dtype)) == jnp.inf
        assert jnp.isnan(log_norm(jnp.array([1, jnp.nan], dtype)))
        assert jnp.isnan(log_norm(jnp.array([jnp.inf, jnp.nan], dtype)))


def test_log_norm_of_mixed_precision():
    """Half precision is measured in float32; a float64 leaf is not narrowed."""
    half = jnp.array([3.0, 4.0], jnp.bfloat16)
    assert log_norm(half).dtype == jnp.float32
    assert float(log_norm(half)) == pytest.approx(math.log(5), rel=1e-6)
    mixed = log_norm([half, jnp.array(1e200, jnp.float64)])
    assert mixed.dtype == jnp.float64
    assert float(mixed) == pytest.approx(math.log(1e200), rel=1e-15)


def test_norms_have_an_exponent_per_sample_under_vmap():
    batch = 10.0 ** jnp.array([-300.0, 0.0, 300.0])[:, None] * jnp.ones(4)[None]
    norms = jax.vmap(log_norm)(batch)
    scaled = jax.vmap(lambda x: log_norm(rescale(x)))(batch)
    expected = np.log(10) * np.array([-300, 0, 300]) + np.log(2)
    np.testing.assert_allclose(norms, expected, rtol=1e-14)
    np.testing.assert_allclose(scaled, expected, rtol=1e-14)


def test_log_root_mean_square():
    values = np.array([[1.0, 7.0], [2.0, 0.0], [0.0, 0.0]])
    with np.errstate(divide="ignore"):
        logs, expected = np.log(values), np.log(np.sqrt((values**2).mean(1)))
    np.testing.assert_allclose(log_root_mean_square(jnp.asarray(logs), axis=1), expected)
    np.testing.assert_allclose(log_root_mean_square(jnp.asarray(logs.T)), expected)
    far = jnp.asarray(logs[:2].T) - 1e6
    np.testing.assert_allclose(log_root_mean_square(far), expected[:2] - 1e6, rtol=1e-14)
