// BERT word-piece tokenizer, lower case without accents, with BLIP's two additional tokens. Equal to Python's except
// for 671 rare marks that are newer than the Unicode tables of the tokenizer there.

const MAX_WORD_LENGTH = 100; // characters; longer words are unknown
const CONTROL = /(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}\p{Cs}\ufffd]/gu;
const CJK = /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/gu;
const MARK = /[\p{P}$+<=>^`|~]/gu;
const CLEAN_UP = [
  [" .", "."], [" ?", "?"], [" !", "!"], [" ,", ","], [" ' ", "'"], [" n't", "n't"], [" 'm", "'m"], [" 's", "'s"],
  [" 've", "'ve"], [" 're", "'re"],
];

export class Tokenizer {
  /** vocabulary: content of vocab.txt, one piece per line. text: section `text` of config.json. */
  constructor(vocabulary, text) {
    this.pieces = vocabulary.replace(/\n$/, "").split("\n").map((piece) => piece.replace(/\r$/, ""));
    this.ids = new Map(this.pieces.map((piece, i) => [piece, i]));
    this.text = text;
    const names = ["pad_id", "unk_id", "cls_id", "sep_id", "mask_id", "dec_id", "enc_id"];
    this.special = new Set(names.map((name) => text[name]));
  }

  /** Return ids of the word pieces of a text, without special tokens other than the one for unknown words. */
  wordIds(text) {
    return splitWords(text).flatMap((word) => this.split(word));
  }

  /** Return `first`, the word pieces and the end token: at most `limit` ids. */
  encode(text, first, limit) {
    return [first, ...this.wordIds(text).slice(0, limit - 2), this.text.sep_id];
  }

  /** Split a word into the longest pieces from left to right; unknown if that is impossible. */
  split(word) {
    const letters = [...word], pieces = [];
    if (letters.length > MAX_WORD_LENGTH) return [this.text.unk_id];
    for (let start = 0; start < letters.length; ) {
      let end = letters.length, id;
      for (; end > start && id === undefined; end--) {
        id = this.ids.get((start ? "##" : "") + letters.slice(start, end).join(""));
      }
      if (id === undefined) return [this.text.unk_id];
      pieces.push(id);
      start = end + 1;
    }
    return pieces;
  }

  /** Return the text of ids without special tokens. */
  decode(ids) {
    const pieces = ids.filter((id) => !this.special.has(id) && id < this.pieces.length).map((id) => this.pieces[id]);
    const text = pieces.join(" ").replaceAll(" ##", "").trim();
    return CLEAN_UP.reduce((cleaned, [before, after]) => cleaned.replaceAll(before, after), text);
  }
}

/** Return words and punctuation of a text in lower case, without accents and control characters. */
function splitWords(text) {
  const plain = text.replace(CONTROL, "").replace(CJK, " $& ").normalize("NFD").replace(/\p{Mn}/gu, "");
  const lower = Array.from(plain, (letter) => letter.toLowerCase()).join(""); // one by one, which avoids a final sigma
  return lower.replace(MARK, " $& ").split(/\p{White_Space}+/u).filter(Boolean);
}
