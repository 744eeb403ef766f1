// Titles by what is typed: every word has to be found, in any order, without accents and case.

const MARKS = /\p{M}+/gu;

/** Lower case without accents: "Misérables" becomes "miserables". */
export const fold = (text) => text.normalize("NFD").replace(MARKS, "").toLowerCase();

/** Finds item numbers (1 is the first title); those in `popular` first among equal matches. */
export class TitleSearch {
  constructor(titles, popular) {
    this.titles = titles;
    this.place = new Map(popular.map((number, place) => [number, place]));
  }

  /** Return at most `limit` item numbers, best first, without those in `leaveOut`. */
  find(query, limit, leaveOut = new Set()) {
    this.folded ??= this.titles.map(fold); // at the first search: a large catalogue takes a moment
    const words = fold(query).split(/\s+/).filter(Boolean);
    if (!words.length) return [];
    const whole = words.join(" ");
    const found = [];
    this.folded.forEach((title, index) => {
      if (!words.every((word) => title.includes(word)) || leaveOut.has(index + 1)) return;
      let quality = 2; // somewhere inside a word
      if (title.startsWith(whole)) quality = 0;
      else if (words.every((word) => startsAWord(title, word))) quality = 1;
      found.push({ number: index + 1, quality, length: title.length });
    });
    const place = (number) => this.place.get(number) ?? Infinity;
    // Infinity minus Infinity is not a number, which `||` passes over.
    found.sort(
      (a, b) =>
        a.quality - b.quality ||
        place(a.number) - place(b.number) ||
        a.length - b.length ||
        a.number - b.number,
    );
    return found.slice(0, limit).map((hit) => hit.number);
  }
}

function startsAWord(title, word) {
  for (let at = title.indexOf(word); at !== -1; at = title.indexOf(word, at + 1)) {
    if (at === 0 || !/[\p{L}\p{N}]/u.test(title[at - 1])) return true;
  }
  return false;
}

/** Cut a title into pieces, each with whether it is what was typed: for showing matches. */
export function pieces(title, query) {
  const words = fold(query).split(/\s+/).filter(Boolean);
  // Folding can change a text's length, so each folded letter remembers which one it came from.
  const letters = [...title];
  const origin = letters.flatMap((letter, i) => Array(fold(letter).length).fill(i));
  const folded = letters.map(fold).join("");
  const typed = new Set();
  for (const word of words) {
    for (let at = folded.indexOf(word); at !== -1; at = folded.indexOf(word, at + word.length)) {
      for (let i = at; i < at + word.length; i++) typed.add(origin[i]);
    }
  }
  const cut = [];
  letters.forEach((letter, i) => {
    const last = cut.at(-1);
    if (last?.typed === typed.has(i)) last.text += letter;
    else cut.push({ text: letter, typed: typed.has(i) });
  });
  return cut;
}
