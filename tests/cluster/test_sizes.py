"""Sizes as users type them, and as they read them."""

import pytest

from cluster.sizes import SIZE_BYTES_MAX, size_bytes, size_text


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("500MB", 500_000_000), ("500MiB", 500 << 20), ("1.5GiB", 3 << 29), ("1.5 gib", 3 << 29), ("2kb", 2_000),
        ("1TiB", 1 << 40), ("1TB", 10**12), ("7B", 7), ("0.3B", 1), ("0.1KiB", 103), (0, 0), (4_096, 4_096),
    ],
)  # fmt: skip
def test_a_size_is_text_with_a_unit_or_a_number_of_bytes(value, size):
    assert size_bytes("x", value) == size


@pytest.mark.parametrize("value", ["", "500", "MB", "5 M", "5G", "-5MB", "1e3MB", "1,5GiB", ".5GiB", "٣MB", "5MB5MB"])
def test_other_text_is_refused_with_an_example(value):
    with pytest.raises(ValueError, match=r"memory: .* is no size; write for example \"500MB\""):
        size_bytes("memory", value)


@pytest.mark.parametrize("value", [1.5, True, None, ["5MB"]])
def test_other_types_are_refused(value):
    with pytest.raises(TypeError, match="memory: expected text"):
        size_bytes("memory", value)


@pytest.mark.parametrize("value", [-1, SIZE_BYTES_MAX + 1, "2000TiB", "9999999999999999TB"])
def test_what_no_machine_has_is_refused(value):
    with pytest.raises(ValueError, match="out of range, 0 to 1 PiB"):
        size_bytes("memory", value)


def test_a_size_is_read_in_the_largest_unit_that_it_reaches():
    sizes = [0, 1_023, 1_024, 500_000_000, 3 << 29, 2 << 30, 4_096 << 30]
    assert [size_text(size) for size in sizes] == [
        "0 B", "1023 B", "1 KiB", "476.8 MiB", "1.5 GiB", "2 GiB", "4096 GiB",
    ]  # fmt: skip
