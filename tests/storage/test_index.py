"""The index against a plain list."""

from random import Random

import pytest

from cluster.storage.index import LogIndex


@pytest.mark.parametrize("seed", range(20))
def test_places_and_terms_follow_any_mix_of_appends_and_truncations(seed):
    random = Random(seed)
    index = LogIndex()
    model: list[tuple[int, int, int]] = []      # (term, segment, offset of the frame)
    offset, segment, term = 8_192, 1, 1
    for _ in range(200):
        if random.random() < 0.2 and model:
            position = random.randrange(len(model)) + 1
            del model[position - 1 :]
            index.truncate(position)
        term += random.random() < 0.1
        segment += random.random() < 0.05
        count = random.randrange(1, 5)
        index.append(segment, offset, count * 8, len(model) + count, ((len(model) + 1, term),))
        model += [(term, segment, offset)] * count
        offset += 100
        assert index.last_index == len(model)
    for position, (term, segment, offset) in enumerate(model, 1):
        assert index.term(position) == term
        (run,) = index.runs(position, position + 1)
        assert (run.segment, run.offset) == (segment, offset)
        assert run.first <= position <= run.last
    runs = list(index.runs(1, len(model) + 1))
    assert [run.first for run in runs[1:]] == [run.last + 1 for run in runs[:-1]]
    terms = dict(index.terms())
    assert [terms[first] for first in sorted(terms)] == sorted(set(terms.values()))
    index.truncate(1)
    assert index.last_index == 0
    assert index.terms() == ()
