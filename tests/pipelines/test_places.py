"""Frames' places in shared memory are free again when nothing shows them any more, and only then."""

import gc

import numpy as np
import pytest

from pipelines.places import OwnPlaces, Places


@pytest.fixture
def places():
    places = OwnPlaces(3, 4, 5)
    yield places
    places.close()


def test_what_is_written_is_seen_by_others(places):
    other = Places(places.fd, 3, 4, 5)
    taken = places.take()
    taken[:] = 7
    np.testing.assert_array_equal(other.pixels(places.place(taken)), np.full((4, 5, 3), 7, np.uint8))
    assert places.place(np.zeros((4, 5, 3), np.uint8)) is None
    assert OwnPlaces(1, 4, 5).place(taken) is None


def test_a_place_is_taken_as_long_as_any_view_of_it_is_left(places):
    taken = [places.take() for _ in range(3)]
    assert {places.place(one) for one in taken} == {0, 1, 2}
    view = taken.pop()[1:, :, 0]
    with pytest.raises(RuntimeError, match="all 3 places"):
        places.take()
    del view
    places.take()


def test_a_cycle_of_references_keeps_no_place(places):
    gc.disable()
    try:
        for _ in range(9):
            cycle = [places.take()]
            cycle.append(cycle)
            del cycle
    finally:
        gc.enable()
