// Titles by what is typed: every word has to be found, in any order, without accents and case.

const MARKS = /\p{M}+/gu;
const ASCII = /^[\x00-\x7f]*$/; // the quick way for most of a large catalogue
const LETTER = /[\p{L}\p{N}]/u;

/** Lower case without accents: "Misérables" becomes "miserables". */
export function fold(text) {
  const plain = ASCII.test(text) ? text : text.normalize("NFD").replace(MARKS, "");
  return plain.toLowerCase();
}

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
    const best = []; // never longer than `limit`: sorting all matches of "a" would take a moment
    this.folded.forEach((title, index) => {
      const number = index + 1;
      if (!words.every((word) => title.includes(word)) || leaveOut.has(number)) return;
      const last = best.length === limit ? best[limit - 1] : null;
      let quality = 2; // somewhere inside a word
      if (title.startsWith(whole)) quality = 0;
      else if (words.every((word) => startsAWord(title, word))) quality = 1;
      if (last && quality > last[0]) return;
      const hit = [quality, this.place.get(number) ?? Infinity, title.length, number];
      if (last && !isBefore(hit, last)) return;
      let at = best.length;
      while (at > 0 && isBefore(hit, best[at - 1])) at--;
      best.splice(at, 0, hit);
      best.length = Math.min(best.length, limit);
    });
    return best.map(([, , , number]) => number);
  }
}

/** Whether a list of numbers comes before another, like words in a dictionary. */
function isBefore(first, second) {
  const at = first.findIndex((value, i) => value !== second[i]);
  return at !== -1 && first[at] < second[at];
}

function startsAWord(title, word) {
  for (let at = title.indexOf(word); at !== -1; at = title.indexOf(word, at + 1)) {
    if (at === 0 || title[at - 1] === " " || !LETTER.test(title[at - 1])) return true;
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
