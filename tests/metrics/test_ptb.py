"""Tokens against the Java tokenizer's: the lists below are its output, less the scorer's punctuation."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blip.metrics.ptb import tokenize

# Stanford CoreNLP 3.4.1, edu.stanford.nlp.process.PTBTokenizer -preserveLines -lowerCase, on invented sentences.
RECORDED = [
    # words taken apart
    ("It can't rain, they don't mind and she won't go.", "it ca n't rain they do n't mind and she wo n't go"),
    ("We CANNOT see it; they're gonna try, 'tis fun.", "we can not see it they 're gon na try 't is fun"),
    (
        "The dogs' bowls and the man's hat, we've said; I'd go, she'll wait.",
        "the dogs bowls and the man 's hat we 've said i 'd go she 'll wait",
    ),
    ("Lemme see what you gotta do, y'all", "lem me see what you got ta do y' all"),
    ("they cann't see", "they cann t see"),
    # words with an apostrophe
    ("rock 'n' roll at ten o'clock with ma'am O'Brien", "rock 'n' roll at ten o'clock with ma'am o'brien"),
    (
        "an ol' tune of the '90s from '12 and the 1980's, 'til dawn",
        "an ol' tune of the '90s from '12 and the 1980 's 'til dawn",
    ),
    ("a slip 'n slide for 'em in Hawai'i", "a slip 'n slide for 'em in hawai'i"),
    ("d'art and l'eau, c'mon", "d'art and l'eau c'mon"),
    # typographic signs
    ("It’s a dog’s life, they don’t say", "it 's a dog 's life they do n't say"),
    ("“A quote” and ‘another’ – with dashes — and an ellipsis…", "a quote and another with dashes and an ellipsis"),
    ("a café-style table, crème brûlée and naïve piñatas", "a café-style table crème brûlée and naïve piñatas"),
    ("½ of a cake at 30° for €5 or £4 or 50¢", "1/2 of a cake at 30 ° for $ 5 or # 4 or 50 cents"),
    ("a “‘nested” quote", "a ``` nested quote"),
    # brackets and quotes
    ("a man (left) and [right] {here}", "a man -lrb- left -rrb- and -lsb- right -rsb- -lcb- here -rcb-"),
    ("she says \"hello\" to 'someone'", "she says hello to someone"),
    ("horse(s) in a field", "horse -lrb- s -rrb- in a field"),
    # dots that stay
    ("on St. Patrick Ave. near Ft. Worth Blvd.", "on st. patrick ave. near ft. worth blvd."),
    ("the U.S. flag at 6 p.m. in Washington D.C.", "the u.s. flag at 6 p.m. in washington d.c."),
    ("Mr. and Mrs. Smith vs. Dr. J. Jones Jr.", "mr. and mrs. smith vs. dr. j. jones jr."),
    ("an old t.v. set and a sign of no. 5, no. not", "an old t.v. set and a sign of no. 5 no not"),
    ("a bottle of vitamin C. The end", "a bottle of vitamin c the end"),
    ("bus no. seven.,", "bus no seven."),
    ("A. cat in the pass. Ill. is miss. here", "a. cat in the pass ill. is miss here"),
    # dots that go
    ("a dog.A cat.the end", "a dog.a cat.the end"),
    ("what??? wow!! no?! end... and .. so . . .", "what ??? wow !! no ?! end and so"),
    ("a bag of 20 lb. of oz. in.", "a bag of 20 lb of oz in"),
    # hyphens and slashes
    ("a 5-year-old in a t-shirt and an x-ray", "a 5-year-old in a t-shirt and an x-ray"),
    ("a U.S.-made non-stick pan on-line- and -x", "a u.s.-made non-stick pan on-line and x"),
    ("and/or black/white/grey w/ a 24/7 sign", "and/or black/white/grey w / a 24/7 sign"),
    ("a dog -- a cat --- a bird - a cow", "a dog a cat a bird a cow"),
    # numbers
    ("3.5 of 3,500 at 3:30pm, 10% of -5 and +5", "3.5 of 3,500 at 3:30 pm 10 % of -5 and +5"),
    ("a 2 1/2 inch, 3/4-inch and 1-1/2 thing", "a 2 1/2 inch 3/4-inch and 1-1/2 thing"),
    ("a chair,couch and 12in. or 6ft tall", "a chair couch and 12in or 6ft tall"),
    ("he is 5'10\" and 5'", "he is 5 10 and 5"),
    # money and signs
    ("$5 or US$5.50 for #1 and # 2 of a $100,000 car", "$ 5 or us$ 5.50 for # 1 and # 2 of a $ 100,000 car"),
    ("at&t, AT&T, black & white, R&B and M&Ms", "at & t at&t black & white r&b and m&m s"),
    ("a * b = c + d_e ~ f | g \\ h ^ ___ i @ home < 3", "a * b = c + d_e ~ f | g \\ h ^ ___ i @ home < 3"),
    ("C++ and C# of a@b.com at www.site.com/page, @user #tag", "c++ and c# of a@b.com at www.site.com/page @user #tag"),
    ("a smile :) and :-D ^_^ here", "a smile :-rrb- and :-d ^_^ here"),
    # others
    ("", ""),
    ("   ", ""),
    ("...", ""),
    ("a\nb\tc", "a b c"),
    ("😀 a dog🐶 runs ❤", "a dog runs ❤"),
    ("an 日本語 sign, Ω", "an 日本語 sign ω"),
]


@pytest.mark.parametrize(("text", "tokens"), RECORDED)
def test_tokens_equal_the_java_tokenizer(text: str, tokens: str) -> None:
    assert tokenize(text) == tokens.split()


def test_the_next_word_decides_on_the_dot_of_an_initial() -> None:
    assert tokenize("vitamin C. The")[1] == "c"
    assert tokenize("vitamin C. Theo")[1] == "c."
    assert tokenize("vitamin C.")[1] == "c"


def test_a_number_decides_on_the_dot_of_no() -> None:
    assert tokenize("No. 5") == ["no.", "5"]
    assert tokenize("No. Five") == ["no", "five"]


@settings(deadline=None, derandomize=True, database=None)
@given(st.text(alphabet="aB5é .,'’\"-!?()$&/@#_“”…\n😀", max_size=40))
def test_any_text_becomes_words_without_spaces_or_lone_punctuation(text: str) -> None:
    for token in tokenize(text):
        assert token.split() == [token]
        assert token not in {".", ",", "?", "!", "'", "''", "``", "-", "--", "..."}


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from(["a", "dog", "runs", "CANNOT", "it's", "5", "tall"]), max_size=6))
def test_words_apart_are_tokenized_alone(words: list[str]) -> None:
    assert tokenize(" ".join(words)) == [token for word in words for token in tokenize(word)]
