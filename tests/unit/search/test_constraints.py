"""The automaton that follows a phrase."""

import random
import time

from nmt.search import constraints


def longest(seen, phrase):
    """The longest beginning of a phrase that ends what was seen: the definition."""
    return next(n for n in range(len(seen), -1, -1) if seen[len(seen) - n :] == phrase[:n])


def test_a_phrase_that_breaks_off_falls_back_to_the_longest_beginning_that_stands():
    generator = random.Random(1)
    for _ in range(300):
        length = generator.randint(1, 9)
        phrase = tuple(generator.choices(range(3), k=length))
        width = length + generator.randint(0, 2)
        moves = constraints._moves(phrase, width)
        for matched in range(length):
            for token in set(phrase):
                found = moves[matched][phrase.index(token)]
                assert found == longest((*phrase[:matched], token), phrase)
            assert moves[matched][width] == 0


def test_a_long_phrase_takes_no_time_to_speak_of():
    before = time.process_time()
    constraints._moves(tuple(range(400)), 400)
    assert time.process_time() - before < 5.0
