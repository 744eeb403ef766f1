// What `export.recommender` is in Python: a history of item ids in, the best items out.
//
//   const recommender = await Recommender.fetch(ort, "/models/gru-distilled-int8");
//   const answer = await recommender.recommend(["50", "172"], { k: 10 });
//
// `ort` is onnxruntime-web, onnxruntime-node or onnxruntime-react-native. Types are in client.d.ts.

import { sha256 } from "./sha256.js";

const FORMAT = "seqrec-recommender";
const VERSION = 2;
const FILES = ["config.json", "items.json", "model.onnx"];
export const DATA = "model.onnx.data"; // the tables of a large index
const EXPORT_AGAIN = "Export it again: python -m export.to_onnx";

/** There is no recommender, or it is damaged: what was found, and what to do. */
export class ModelError extends Error {
  name = "ModelError";
}

export class Recommender {
  /** Open the three files of a folder that `export.to_onnx` wrote; what is bytes is verified. */
  static async open(ort, { config, items, model, sessionOptions = {} }) {
    const about = json(config, "config.json");
    if (about.format !== FORMAT || about.version !== VERSION) {
      throw new ModelError(
        `The folder is ${about.format} version ${about.version}, expected ${FORMAT} version ` +
          `${VERSION}. ${EXPORT_AGAIN}`,
      );
    }
    if (about.sha256?.[DATA] && model instanceof Uint8Array) {
      throw new ModelError(
        `The index has its tables in ${DATA}, which Python and, by openFolder, Node.js open. ` +
          "Elsewhere open the export that it was made of",
      );
    }
    await verify("items.json", items, about);
    await verify(about.model_file ?? "model.onnx", model, about); // model.ort from export.to_mobile
    const { ids, titles } = json(items, "items.json");
    if (ids.length !== about.num_items || titles.length !== ids.length) {
      throw new ModelError(
        `items.json has ${ids.length} ids and ${titles.length} titles, expected ` +
          `${about.num_items}. ${EXPORT_AGAIN}`,
      );
    }
    let session;
    try {
      session = await ort.InferenceSession.create(model, sessionOptions);
    } catch (error) {
      throw new ModelError(`The model does not start: ${error.message ?? error}`);
    }
    return new this({ ort, session, ids, titles, config: about });
  }

  /** Fetch a folder from a server and open it. */
  static async fetch(ort, url, sessionOptions = {}) {
    const [config, items, model] = await Promise.all(
      FILES.map(async (name) => {
        const response = await globalThis.fetch(`${url.replace(/\/$/, "")}/${name}`);
        if (!response.ok) {
          throw new ModelError(`${url} has no ${name}: the server answered ${response.status}`);
        }
        return new Uint8Array(await response.arrayBuffer());
      }),
    );
    return this.open(ort, { config, items, model, sessionOptions });
  }

  constructor({ ort, session, ids, titles, config }) {
    Object.assign(this, { ort, session, ids, titles, config });
    this.maxLen = config.max_len;
    this.numbers = new Map(ids.map((id, index) => [id, index + 1])); // item numbers start at 1
    this.lastRun = Promise.resolve();
  }

  /** Recommend for one user, best first; rules as in Python. */
  async recommend(history, { k = 10, excludeSeen = true, candidates } = {}) {
    const seen = this.known(history, "the history");
    const excluded = excludeSeen ? seen : [];
    const ranked = await this.alone(() =>
      this.rank(seen, k, candidates ? excluded.concat(this.barred(candidates)) : excluded),
    );
    return ranked.map(({ number, score }) => ({
      item_id: this.ids[number - 1],
      title: this.titles[number - 1],
      score,
    }));
  }

  /** The numbers of the known items; a number is the id that is written so. */
  known(ids, what) {
    const text = (id) => (["number", "bigint"].includes(typeof id) ? String(id) : id);
    const numbers = ids.map((id) => this.numbers.get(text(id))).filter((number) => number);
    if (!numbers.length) throw new RangeError(`${what} holds no item of the catalogue`);
    return numbers;
  }

  /** The numbers of all items but these. */
  barred(candidates) {
    const wanted = new Set(this.known(candidates, "candidates"));
    return this.ids.map((_, index) => index + 1).filter((number) => !wanted.has(number));
  }

  /** Run the model: item numbers and scores, best first. Only inside of `alone`. */
  async rank(numbers, k, excluded = numbers) {
    const { top_items, top_scores } = await this.session.run(this.request(numbers, k, excluded));
    const ranked = [];
    top_scores.data.forEach((score, i) => {
      if (score === -Infinity) return; // fewer than k were left
      ranked.push({ number: Number(top_items.data[i]), score });
    });
    return ranked;
  }

  /** Make the model's inputs from item numbers, oldest first. */
  request(numbers, k, excluded = numbers) {
    if (!Number.isInteger(k) || k < 1) {
      throw new RangeError(`k is ${k}, expected a whole number of at least 1`);
    }
    const tensor = (values, shape) =>
      new this.ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
    const newest = numbers.slice(-this.maxLen); // what the model looks at
    return {
      items: tensor(newest, [1, newest.length]),
      excluded: tensor(excluded, [1, excluded.length]),
      k: tensor([Math.min(k, this.ids.length)], [1]),
    };
  }

  /** Run `task` when those before it have ended: a session answers one request at a time. */
  alone(task) {
    const run = this.lastRun.then(task);
    this.lastRun = run.catch(() => {});
    return run;
  }
}

/** Compare a file's bytes with what config.json says; a path or an object is not compared. */
export async function verify(name, content, { sha256: expected }) {
  if (!(content instanceof Uint8Array)) return;
  const found = await sha256(content);
  if (found !== expected?.[name]) {
    throw new ModelError(
      `${name} is damaged: SHA-256 is ${found}, expected ${expected?.[name]}. ${EXPORT_AGAIN}`,
    );
  }
}

/** Read JSON from bytes or a text; an object is returned as it is. */
export function json(content, name) {
  try {
    if (content instanceof Uint8Array) return JSON.parse(new TextDecoder().decode(content));
    return typeof content === "string" ? JSON.parse(content) : content;
  } catch {
    throw new ModelError(`${name} is no JSON. ${EXPORT_AGAIN}`);
  }
}
