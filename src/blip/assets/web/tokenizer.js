// Texts to ids and back: BERT word pieces, lower case without accents, with BLIP's two extra tokens. Equal to Python's
// but for 671 rare marks that are newer than the tables of the tokenizer there.

const LONGEST_WORD = 100; // characters; longer ones are unknown
const CONTROL = /(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}\p{Cs}\ufffd]/gu;
const CJK = /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/gu;
const MARK = /[\p{P}$+<=>^`|~]/gu;
const CLEAN_UP = [
  [" .", "."], [" ?", "?"], [" !", "!"], [" ,", ","], [" ' ", "'"], [" n't", "n't"], [" 'm", "'m"], [" 's", "'s"],
  [" 've", "'ve"], [" 're", "'re"],
];

export class Tokenizer {
  /** vocabulary: the text of vocab.txt, a piece a line. text: the part of that name of config.json. */
  constructor(vocabulary, text) {
    this.pieces = vocabulary.replace(/\n$/, "").split("\n").map((piece) => piece.replace(/\r$/, ""));
    this.ids = new Map(this.pieces.map((piece, i) => [piece, i]));
    this.text = text;
    const names = ["pad_id", "unk_id", "cls_id", "sep_id", "mask_id", "dec_id", "enc_id"];
    this.special = new Set(names.map((name) => text[name]));
  }

  /** Ids of the word pieces of a text, no special ones but that of unknown words. */
  wordIds(text) {
    return words(text).flatMap((word) => this.split(word));
  }

  /** first, the word pieces, the end: at most `limit` ids. */
  encode(text, first, limit) {
    return [first, ...this.wordIds(text).slice(0, limit - 2), this.text.sep_id];
  }

  /** The longest pieces from left to right; a word that cannot be made of pieces is unknown. */
  split(word) {
    const letters = [...word], found = [];
    if (letters.length > LONGEST_WORD) return [this.text.unk_id];
    for (let start = 0; start < letters.length; ) {
      let end = letters.length, id;
      for (; end > start && id === undefined; end--) {
        id = this.ids.get((start ? "##" : "") + letters.slice(start, end).join(""));
      }
      if (id === undefined) return [this.text.unk_id];
      found.push(id);
      start = end + 1;
    }
    return found;
  }

  /** Text of ids without the special ones. */
  decode(ids) {
    const pieces = ids.filter((id) => !this.special.has(id) && id < this.pieces.length).map((id) => this.pieces[id]);
    const text = pieces.join(" ").replaceAll(" ##", "").trim();
    return CLEAN_UP.reduce((cleaned, [written, wanted]) => cleaned.replaceAll(written, wanted), text);
  }
}

/** Words and marks of a text, lower case, without accents and control characters. */
function words(text) {
  const plain = text.replace(CONTROL, "").replace(CJK, " $& ").normalize("NFD").replace(/\p{Mn}/gu, "");
  const lower = Array.from(plain, (letter) => letter.toLowerCase()).join(""); // one by one: no final sigma
  return lower.replace(MARK, " $& ").split(/\p{White_Space}+/u).filter(Boolean);
}
