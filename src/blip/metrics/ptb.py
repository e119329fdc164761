"""Penn Treebank tokens of English captions, equal to the reference scorer's (Stanford's PTBTokenizer of 2014).

At each position the longest match wins, the first rule among equals. The rules reproduce the observed behaviour of that
program; input that is rare in captions (mark-up, unusual web addresses) is covered roughly.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import zip_longest

from blip.metrics.arguments import require_text

# Abbreviations that keep their dot: in any case; not in capitals; only capitalised (else words); before a number.
_ABBREVIATIONS = """
adj adm adv al ala alex apr ariz assn asst atty aug ave bhd bldg blvd brig bros capt cf cie cmdr co col colo conn corp
cos cpl ct dak dec dept det dr drs elec ens esq est etc ext feb fla fri ft ga gen gov govs hon inc ind insp intl invt
jan jos jr jul jun kan kans ky lt ltd maj mar md mich minn mlle mme mo mon mont mr mrs ms msgr mt natl neb nev nov oct
okla penn pfc ph plc pres prof pvt rd rep reps rev rt sen sens sep sept seq sfc sgt spc sq sr st ste supt sys tel tenn
thu tue tues univ va vs vt wed wis wisc wm wyo
"""
_NOT_IN_CAPITALS = "mfg mtg ppte ppty pte ptes pty ptys"
_CAPITALISED = "ark az del ill la mass miss ore pa tex wash"
_BEFORE_NUMBERS = "art ca fig figs no nos op pp prop"
# Words that, capitalised, show that a dot after a single letter ends a sentence ("with vitamin C. The ...").
_STARTERS = """
a about according additionally after an as at but earlier he her here however if in it last many more now once one other
our she since so some such that the their then there these they this we what when while yet you
"""
_FORMS = {"lower": str.lower, "title": str.title, "upper": str.upper}


def _any_of(words: str, *forms: str) -> str:
    """Return a pattern for any of the words in the given forms (default: all)."""
    return "|".join(dict.fromkeys(_FORMS[form](word) for word in words.split() for form in forms or _FORMS))


_NUMERAL = "²³¹¼-¾⁰-ₜ⅐-ↈ①-⓿❶-➓"
_NO_LETTER = rf"{_NUMERAL}\U00010000-\U0010ffff"  # letters in Python, not in the tokenizer
_L = rf"(?:[^\W\d_{_NO_LETTER}]|[˂-˅˒-˟˥-˫˭˯-ͯ])"  # a letter or a combining accent
_C = rf"(?:{_L}|\d|\xad)"  # continues a word
_A = "[A-Za-z0-9]"
_APOS = "['’]"
_Q = "['’‘`]"  # characters used as an apostrophe within a word
_AUX = rf"{_APOS}(?:[msdMSD]|re|ve|ll|RE|VE|LL|Re|Ve|Ll)"
_WORD = rf"{_L}{_C}*(?:[.!?]{_L}{_C}*)*"  # a full stop without a space does not end a word: grass.There
_ELIDED = rf"(?:[dDlLoO]{_Q}(?={_L}{_L}))?"
_COMPOUND = rf"{_ELIDED}{_C}+(?:[-‐‑_]{_ELIDED}{_C}+)*"  # o'clock, 3d, t-shirt
_HYPHENATED = rf"{_A}[A-Za-z0-9.,]*(?:-(?:(?:[A-Za-z]\.){{2,}}|{_A}+))+"  # 5.5-inch, U.S.-made
_SIDE = rf"{_A}+(?:-[A-Za-z]+){{0,2}}"
_LABELS = r"(?:[^\s\"<>|.!?(){},]+\.)+"  # of a web address
_SIGNS = "!-~¡-©¬®-±´¶-¸»¿×÷‖-”„-‣…‰-‸※‾-⁂⁺-⁾₊-₎₤€℀-℆№-℘℞-℣℥℧℩←-⯿、。〒・！-､￠￡￥￦"  # others are dropped

# If a rule has groups, the matched group is the token; the rest is context and counts for the length of the match.
_RULES = tuple(
    re.compile(rule)
    for rule in (
        # words taken apart
        r"(?i:(can)not|(gon|wan)na|(got)ta|(lem|gim)me|('t)(?:is|was))",
        rf"({_L}*(?![nN]){_L})[nN]{_Q}[tT]",
        rf"([nN]{_Q}[tT])(?:[^A-Za-z]|$)",
        rf"({_WORD}|{_COMPOUND}){_AUX}",
        rf"({_AUX})(?:[^A-Za-z]|$)",
        # words with an apostrophe: 'n', ol', d', y'all, '90s, '12, C'mon, ma'am, Hawai'i
        rf"{_APOS}[nN]{_APOS}?|(?i:ol{_APOS}|{_APOS}em|{_APOS}till?|(?:somethin|dunkin)'|'cause)",
        r"(?i:c'mon|s'mores|c'est|e'er|li'l)",
        rf"[dDjJlL]{_APOS}|([yY]{_APOS}){_L}",
        rf"{_APOS}[2-9]0s|({_APOS}\d\d)(?:\s|$)",
        rf"[A-HJ-XZn]{_Q}{_L}{{2,}}|{_L}+[aeiouyAEIOUY]{_Q}[aeiouA-Z]{_L}*",
        # words
        _WORD,
        _COMPOUND,
        _HYPHENATED,
        rf"{_SIDE}(?:/{_SIDE}){{1,2}}",
        r"[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+|[cC]\+\+|[cCfF]#",
        # dots that stay: before a comma, of abbreviations, of initials
        rf"((?:{_WORD}|{_COMPOUND}|{_HYPHENATED})\.)[,;:]",
        rf"(?:{_any_of(_ABBREVIATIONS)}|{_any_of(_NOT_IN_CAPITALS, 'lower', 'title')})\.",
        rf"(?:{_any_of(_CAPITALISED, 'title', 'upper')})\.",
        rf"((?:{_any_of(_BEFORE_NUMBERS)})\.)\s*\d",
        rf"([A-Za-z])\.\s+(?:{_any_of(_STARTERS, 'title', 'upper')})\s|([A-Za-z])\.\s*$",
        r"(?:[A-Za-z]\.)+|[Pp][Hh]\.[Dd]\.",
        # numbers, fractions, money
        r"[-+]?(?:\d*(?:[.:,]\d+)+|\d+)",
        r"(?:\d{1,4}-)?\d{1,4}[/⁄]\d{1,4}",
        r"[A-Z]*\$",
        # addresses, tags, faces
        rf"https?://{_LABELS}[^\s\"<>|(){{}}]*[^\s\"<>|.!?(){{}},-]",
        rf"(?:www\.{_LABELS}[A-Za-z]{{2,4}}|(?:[a-z]+\.)+(?:com|net|org|edu))(?:/[^\s\"<>|()]+[^\s\"<>|.!?(){{}},-])?",
        rf"{_A}[^\s\"<>|(){{}}]*@(?:[^\s\"<>|(){{}}.]+\.)*[^\s\"<>|(){{}}.]+>?",
        rf"@[A-Za-z]\w*|#{_L}+|</?[A-Za-z][^\s<>]*>",
        r"([<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]])(?:[^A-Za-z0-9]|$)",
        r"[-^x=~<>']_[-^x=~<>']|\([-^x=~<>'][_.]?[-^x=~<>']\)",
        # an opening quote before a word, else what is left of an auxiliary
        rf"(')[A-Za-z]\S|{_AUX}",
        # signs, alone and repeated
        r"''|[`‘’‛“”«»‹›]+|-{2,}|[!?]+|\*+|@+|#+|_+|<<|>>|\.\.\.|&(?:amp|lt|gt|quot|apos);|&#\d+;",
        f"[{_SIGNS}{_NUMERAL}]",
    )
)
# A chunk whose final dot depends on the next word.
_OPEN = re.compile(rf"(?<![A-Za-z])(?:[A-Za-z]|{_any_of(_BEFORE_NUMBERS)})\.$")
_QUOTED = re.compile(rf"[nN]{_Q}[tT]|{_AUX}|[`‘’‛“”«»‹›]+")
_QUOTES = str.maketrans(
    {**dict.fromkeys("‘‛‹", "`"), **dict.fromkeys("’›", "'"), **dict.fromkeys("“«", "``"), **dict.fromkeys("”»", "''")}
)
_NAMES = {
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
    "€": "$",
    "¤": "$",
    "£": "#",
    "¢": "cents",
    "½": "1/2",
    "¼": "1/4",
    "¾": "3/4",
    "⅓": "1/3",
    "⅔": "2/3",
    "&lt;": "<",
    "&gt;": ">",
    "&apos;": "'",
    "&quot;": "''",
    '"': "''",
    "---": "--",
    "----": "--",
    "–": "--",
    "—": "--",
    "―": "--",
    "…": "...",
}
# Tokens that the reference scorer drops.
_DROPPED = {"'", "`", "''", "``", ".", "?", "!", ",", ":", "-", "--", "...", ";"}


def tokenize(text: str) -> list[str]:
    """Return the lower-case tokens of a caption, without the punctuation that the reference scorer drops.

    The end of the text ends a sentence (the original tokenizer reads on into the next caption of its file), and a token
    with a space in it, such as a telephone number, is split (as in the scorer's BLEU and CIDEr).
    """
    chunks = require_text(text, "text").split()
    tokens: list[str] = []
    for chunk, following in zip_longest(chunks, chunks[1:]):
        tokens += _pieces(chunk, "" if following is None else f" {following} " if _OPEN.search(chunk) else " ")
    return tokens


@lru_cache(maxsize=1 << 16)
def _pieces(chunk: str, context: str) -> tuple[str, ...]:
    """Return the tokens of a chunk without spaces; context: the text after it."""
    text, position, tokens = chunk + context, 0, []
    while position < len(chunk):
        token = _longest(text, position)
        position += max(len(token), 1)
        tokens.append(_normalized(token))
    return tuple(token for token in tokens if token and token not in _DROPPED)


def _longest(text: str, position: int) -> str:
    """Return the token of the longest match at `position`; empty if no rule matches."""
    token, longest = "", 0
    for rule in _RULES:
        match = rule.match(text, position)
        if match and match.end() - position > longest:
            token, longest = match.group(match.lastindex or 0), match.end() - position
    return token


def _normalized(token: str) -> str:
    """Return a token in the spelling of the reference tokenizer."""
    if token in _NAMES:
        return _NAMES[token]
    plain = token.translate(_QUOTES) if _QUOTED.fullmatch(token) else token
    plain = plain.lower().replace("\xad", "").replace("&amp;", "&")
    return plain.replace("(", "-lrb-").replace(")", "-rrb-")
