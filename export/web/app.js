// The page: picks in, recommendations out. Titles reach the document as text, never as HTML.

import { deviceName, measure } from "./measure.js";
import { keepForOffline } from "./offline.js";
import { PageError, Recommender } from "./recommender.js";
import { TitleSearch, pieces } from "./search.js";

const NUM_ANSWERS = 10;
const NUM_HITS = 8;
const NUM_RECENT = 20;
const WARM_UP_CALLS = 300; // browsers compile again what has run so often
const CALLS_PER_BREAK = 10;

const find = (id) => document.getElementById(id);
const history = []; // item numbers, oldest first
const recentTimes = [];
let recommender;
let search;
let ranking = new Map(); // item number -> place in the answer that is shown
let hits = [];
let active = -1; // the hit that Enter picks

/** Make an element; children are elements or text. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** A title with its year, if it ends in one, set apart: "Fargo (1996)". */
function titleElement(number) {
  const title = recommender.titles[number - 1];
  const [, name, year] = /^(.+?)( \(\d{4}\))$/.exec(title) ?? [null, title, ""];
  return make("span", { className: "title", title }, name, make("span", { className: "year" }, year));
}

const say = (text) => (find("status").textContent = text);
const format = (ms) => `${ms < 10 ? ms.toFixed(2) : ms.toFixed(1)} ms`;

function median(values) {
  const sorted = Float64Array.from(values).sort();
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

// ---- picking and removing

function pick(number) {
  if (history.includes(number)) return Promise.resolve();
  history.push(number);
  const updated = update(`${recommender.titles[number - 1]} added.`);
  const list = find("history"); // on a phone it is one line
  list.scrollTo({ left: list.scrollWidth, top: list.scrollHeight });
  return updated;
}

function remove(number) {
  const place = history.indexOf(number);
  history.splice(place, 1);
  const updated = update(`${recommender.titles[number - 1]} removed.`);
  // The button that had the focus is gone: its neighbour takes over.
  focusOneOf(find("history"), place);
  return updated;
}

/** Focus a list's button at a place, or the last one; the search only where there is none. */
function focusOneOf(list, place) {
  const lists = [list, find("suggested")]; // before the search, which opens a phone's keyboard
  const buttons = lists.map((each) => each.querySelectorAll("button")).find((each) => each.length);
  (buttons?.[Math.min(place, buttons.length - 1)] ?? find("search")).focus({ preventScroll: true });
}

/** Show the history, ask the model, show its answer. */
async function update(news) {
  showHistory();
  if (!history.length) {
    showAnswers([]);
    say(`${news} The history is empty.`);
    return;
  }
  const asked = history.join();
  const ids = history.map((number) => recommender.ids[number - 1]);
  const { answers, milliseconds } = await recommender.recommend(ids, NUM_ANSWERS);
  if (asked !== history.join()) return; // picked on meanwhile: that answer is on its way
  recentTimes.push(milliseconds);
  if (recentTimes.length > NUM_RECENT) recentTimes.shift();
  showAnswers(answers);
  find("milliseconds").textContent = format(milliseconds);
  find("median").textContent =
    recentTimes.length > 1 ? ` · median ${format(median(recentTimes))}` : "";
  const first = answers.length ? `Now first: ${answers[0].title}.` : "No other titles are left.";
  say(`${news} ${first}`);
}

function showHistory() {
  const unread = Math.max(history.length - recommender.maxLen, 0);
  const rows = history.map((number, place) => {
    const button = make("button", { type: "button", className: "remove" }, "×");
    button.setAttribute("aria-label", `Remove ${recommender.titles[number - 1]}`);
    button.addEventListener("click", () => remove(number));
    return make(
      "li",
      { className: place < unread ? "unread" : "" },
      make("span", { className: "rank", ariaHidden: "true" }, `${place + 1}`),
      titleElement(number),
      button,
    );
  });
  find("history").replaceChildren(...rows);
  find("clear").hidden = !history.length;
  find("suggestions").hidden = history.length > 0 || !find("suggested").children.length;
  find("long-history").hidden = !unread;
  find("long-history").textContent =
    `The model reads the newest ${recommender.maxLen}. ` +
    `The ${unread} before them are only left out of the answer.`;
}

function showAnswers(answers) {
  const list = find("answers");
  const before = new Map([...list.children].map((row) => [row.dataset.number, row.offsetTop]));
  const rows = answers.map(({ number, id }, place) => {
    const button = make(
      "button",
      { type: "button" },
      make("span", { className: "rank", ariaHidden: "true" }, `${place + 1}`),
      make("span", { className: "hidden" }, "Add "),
      titleElement(number),
      changeElement(number, place),
      make("span", { className: "plus", ariaHidden: "true" }, "+"),
    );
    button.addEventListener("click", () => pickFromAnswers(number, place));
    const row = make("li", {}, button);
    row.dataset.number = number;
    row.dataset.id = id;
    return row;
  });
  list.replaceChildren(...rows);
  ranking = new Map(answers.map(({ number }, place) => [number, place]));
  find("empty").hidden = history.length > 0;
  find("timing").hidden = !history.length;
  find("few").hidden = !history.length || answers.length === NUM_ANSWERS;
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const row of rows) {
    const moved = (before.get(row.dataset.number) ?? row.offsetTop + 12) - row.offsetTop;
    const opacity = before.has(row.dataset.number) ? 1 : 0;
    row.animate([{ transform: `translateY(${moved}px)`, opacity }, { transform: "none", opacity: 1 }], {
      duration: 220,
      easing: "ease-out",
    });
  }
}

/** What has become of an item since the answer before: new, up or down. */
function changeElement(number, place) {
  if (!ranking.size) return "";
  const was = ranking.get(number);
  if (was === undefined) return make("span", { className: "change new" }, "new");
  if (was === place) return make("span", { className: "change" });
  const by = Math.abs(was - place);
  return make(
    "span",
    { className: "change" },
    make("span", { ariaHidden: "true" }, `${was > place ? "▲" : "▼"} ${by}`),
    make("span", { className: "hidden" }, was > place ? `, up by ${by}` : `, down by ${by}`),
  );
}

async function pickFromAnswers(number, place) {
  await pick(number);
  focusOneOf(find("answers"), place); // another title is there now; the keyboard stays at its place
}

// ---- the search, after the combobox pattern of the ARIA Authoring Practices Guide

function setUpSearch() {
  const input = find("search");
  input.addEventListener("input", showHits);
  input.addEventListener("focus", () => {
    showHits();
    // A phone's keyboard takes the lower half of the screen, and the hits need room above it.
    if (matchMedia("(max-width: 47rem)").matches) input.parentElement.scrollIntoView();
  });
  input.addEventListener("blur", closeHits);
  input.addEventListener("keydown", (event) => {
    const open = input.getAttribute("aria-expanded") === "true";
    if (event.isComposing) return; // Enter then ends the input of a character
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!open) showHits();
      else if (hits.length) {
        const step = event.key === "ArrowDown" ? 1 : -1;
        activate((active + step + hits.length) % hits.length);
      }
    } else if (event.key === "Enter" && open && active >= 0) {
      event.preventDefault();
      choose(hits[active]);
    } else if (event.key === "Escape") {
      event.preventDefault();
      if (open) closeHits();
      else input.value = "";
    }
  });
  // The press would take the focus from the input, and so close the list before the click.
  find("popup").addEventListener("mousedown", (event) => event.preventDefault());
}

function showHits() {
  const query = find("search").value;
  hits = search.find(query, NUM_HITS, new Set(history));
  const options = hits.map((number, place) => {
    const marked = pieces(recommender.titles[number - 1], query).map(({ text, typed }) =>
      typed ? make("mark", {}, text) : text,
    );
    const option = make("li", { id: `hit-${place}`, role: "option" }, make("span", {}, ...marked));
    option.addEventListener("click", () => choose(number));
    option.addEventListener("mousemove", () => active !== place && activate(place));
    return option;
  });
  find("hits").replaceChildren(...options);
  const typed = query.trim();
  find("popup").hidden = !typed;
  find("no-hit").hidden = hits.length > 0;
  find("no-hit").textContent = `No other title has “${typed}” in it.`;
  find("search").setAttribute("aria-expanded", String(hits.length > 0));
  if (typed) say(hits.length ? `${hits.length} titles.` : find("no-hit").textContent);
  activate(hits.length ? 0 : -1);
}

function activate(place) {
  active = place;
  [...find("hits").children].forEach((option, i) => {
    option.setAttribute("aria-selected", String(i === place));
    if (i === place) option.scrollIntoView({ block: "nearest" });
  });
  if (place >= 0) find("search").setAttribute("aria-activedescendant", `hit-${place}`);
  else find("search").removeAttribute("aria-activedescendant");
}

function closeHits() {
  find("popup").hidden = true;
  find("search").setAttribute("aria-expanded", "false");
  activate(-1);
}

function choose(number) {
  find("search").value = "";
  closeHits();
  pick(number);
}

// ---- the benchmark

async function runMeasurement() {
  const button = find("measure");
  const bar = find("measure-bar");
  button.disabled = true;
  button.textContent = "Measuring …";
  bar.hidden = false;
  find("result").hidden = true;
  try {
    const result = await measure(recommender, {
      numRequests: Number(find("requests").value),
      deviceName: find("device").value.trim() || (await deviceName()),
      k: NUM_ANSWERS,
      onProgress: (share) => (bar.value = share),
    });
    showResult(result);
  } finally {
    button.disabled = false;
    button.textContent = "Measure";
    bar.hidden = true;
  }
}

function showResult(result) {
  for (const [name, ms] of Object.entries(result.latency_ms)) {
    find(name).textContent = ms < 1 ? `${ms.toFixed(3)} ms` : format(ms);
  }
  const together =
    result.calls_per_sample > 1
      ? `, timed ${result.calls_per_sample} at a time because the browser's clock has steps of ` +
        `${result.clock_resolution_ms.toFixed(2)} ms`
      : "";
  find("conditions").textContent =
    `${result.num_requests.toLocaleString("en")} requests${together}; ` +
    `${result.runtime.num_threads} thread of ${result.device.hardware_concurrency ?? "?"}, ` +
    `onnxruntime-web ${result.runtime.version}.`;
  const link = find("download");
  URL.revokeObjectURL(link.href);
  const text = `${JSON.stringify(result, null, 2)}\n`;
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = `latency-${result.device.name.replace(/[^\p{L}\p{N}]+/gu, "-")}.json`;
  find("result").hidden = false;
  say(`Half of the answers took ${format(result.latency_ms.p50)} or less.`);
}

// ---- start

function showFacts() {
  const { config, model, site } = recommender;
  const facts = [
    [config.arch, config.role, config.precision].filter(Boolean).join(" "),
    `${(model.size_bytes / 2 ** 20).toFixed(2)} MiB`,
    `${recommender.ids.length.toLocaleString("en")} titles`,
    config.dataset,
  ];
  find("facts").replaceChildren(...facts.filter(Boolean).map((fact) => make("li", {}, fact)));
  find("about").textContent =
    `Model ${model.sha256.slice(0, 12)}, verified; run by onnxruntime-web ${site.runtime.version}.`;
}

function showSuggestions() {
  const { popular, num_suggested } = recommender.site;
  const chips = popular.slice(0, num_suggested).map((number) => {
    const button = make("button", { type: "button" }, titleElement(number));
    button.addEventListener("click", async () => {
      await pick(number);
      focusOneOf(find("answers"), 0);
    });
    return make("li", {}, button);
  });
  find("suggested").replaceChildren(...chips);
}

function showError(error) {
  const known = error instanceof PageError;
  document.documentElement.dataset.state = "error";
  find("error-title").textContent = known ? error.message : "Something went wrong";
  find("error-advice").textContent = known ? error.advice : `${error}`;
  find("error").hidden = false;
  find("app").hidden = true;
  if (!known) throw error; // to the console, with its traceback
}

/** Go on warming up until something is picked; the visitor reads meanwhile. */
async function warmUp() {
  const { ids, maxLen } = recommender;
  for (let call = 0; call < WARM_UP_CALLS && !history.length; call++) {
    await recommender.recommend(ids.slice(0, 1 + (call % maxLen)), NUM_ANSWERS);
    if (call % CALLS_PER_BREAK === 0) await new Promise((resolve) => setTimeout(resolve));
  }
}

async function main() {
  find("loading-text").textContent = "";
  recommender = await Recommender.load({
    onProgress: (share, text) => {
      find("loading-bar").value = share;
      find("loading-text").textContent = text;
    },
  });
  search = new TitleSearch(recommender.titles, recommender.site.popular);
  showFacts();
  showSuggestions();
  showHistory();
  setUpSearch();
  find("clear").addEventListener("click", () => {
    history.length = 0;
    update("Cleared.");
    focusOneOf(find("suggested"), 0);
  });
  find("measure").addEventListener("click", () => runMeasurement().catch(showError));
  find("device").value = await deviceName();
  find("loading").hidden = true;
  find("app").hidden = false;
  document.documentElement.dataset.state = "ready";
  say("The model is ready.");
  warmUp().then(async () => {
    if (await keepForOffline(recommender.site)) {
      document.documentElement.dataset.offline = "kept";
      find("about").append(" Kept on this device: it works without a network, too.");
    }
  }).catch(showError);
  // For tests and the curious: what the model answers to a list of item ids.
  window.seqrec = { recommend: (ids, k) => recommender.recommend(ids, k) };
}

if (!window.seqrecRefused) main().catch(showError);
