// The page's recommender: the client of `export/npm`, with the files and the runtime of the site.
//
//   const recommender = await Recommender.load({ onProgress: (share) => ... });
//   const { answers, milliseconds } = await recommender.recommend(["50", "172"], 10);

import { Recommender as Client } from "./client.js";
import { sha256 } from "./sha256.js";

const FORMAT = "seqrec-recommender";
const SITE_SCHEMA = "seqrec-site/1";
const WASM = "ort-wasm-simd-threaded.wasm";
const WARM_UP_CALLS = 20;
const WARM_UP_MS = 200;
const BUILD_AGAIN = "Build the page again: python -m export.to_web";

/** A fault in words for the visitor: what was found, and what to do. */
export class PageError extends Error {
  constructor(message, advice) {
    super(message);
    this.advice = advice;
  }
}

export class Recommender extends Client {
  /**
   * Load and verify everything.
   *
   * @param {{onProgress?: (share: number, text: string) => void}} options called with 0 to 1
   * @throws {PageError} a file is missing or damaged, or the model does not start
   */
  static async load({ onProgress = () => {} } = {}) {
    const [site, config] = await Promise.all([fetchJson("site.json"), fetchJson("model/config.json")]);
    if (site.schema !== SITE_SCHEMA || config.format !== FORMAT) {
      throw new PageError(
        `The page is made of ${site.schema} and ${config.format}`,
        `Expected ${SITE_SCHEMA} and ${FORMAT}. ${BUILD_AGAIN}`,
      );
    }
    const total = Object.values(site.sizes).reduce((sum, size) => sum + size, 0);
    let loaded = 0;
    const count = (bytes) => {
      loaded = Math.min(loaded + bytes, total);
      onProgress((0.9 * loaded) / total, `${megabytes(loaded)} of ${megabytes(total)} MB`);
    };
    const [packed, items, model] = await Promise.all([
      fetchBytes(`onnxruntime/${WASM}.gz`, count),
      fetchBytes("model/items.json", count),
      fetchBytes("model/model.onnx", count),
    ]);
    onProgress(0.92, "Verifying");
    const wasm = await unpack(packed, WASM);
    const checked = { "items.json": items, "model.onnx": model, [WASM]: wasm };
    const expected = { ...config.sha256, ...site.runtime.sha256 };
    const hashes = {};
    for (const [name, bytes] of Object.entries(checked)) {
      hashes[name] = await sha256(bytes);
      if (hashes[name] !== expected[name]) {
        throw new PageError(
          `${name} is damaged`,
          `Its SHA-256 is ${hashes[name]}, expected ${expected[name]}. ${BUILD_AGAIN}`,
        );
      }
    }
    onProgress(0.96, "Starting the model");
    const { ort, session } = await start(model, wasm);
    const { ids, titles } = JSON.parse(new TextDecoder().decode(items));
    const about = { sha256: hashes["model.onnx"], size_bytes: model.length };
    const recommender = new Recommender({ ort, session, ids, titles, config, site, model: about });
    await recommender.warmUp();
    onProgress(1, "Ready");
    return recommender;
  }

  /** Ask a few times: the first runs are slow, while the browser still compiles. */
  async warmUp() {
    const start = performance.now();
    for (let i = 0; i < WARM_UP_CALLS && performance.now() - start < WARM_UP_MS; i++) {
      await this.recommend([this.ids[i % this.ids.length]]);
    }
  }

  constructor({ site, model, ...opened }) {
    super(opened);
    Object.assign(this, { site, model });
  }

  /**
   * Recommend for one history of item ids, oldest first, and take the time.
   *
   * @returns {Promise<{answers: {id: string, number: number, title: string, score: number}[],
   *   milliseconds: number}>} best first; the time from ids to answers
   * @throws {RangeError} no id is known, or `k` is no whole number of at least 1
   */
  async recommend(history, k = 10) {
    const numbers = this.known(history, "the history");
    return this.alone(async () => {
      const start = performance.now();
      const answers = (await this.rank(numbers, k)).map(({ number, score }) => {
        return { id: this.ids[number - 1], number, title: this.titles[number - 1], score };
      });
      return { answers, milliseconds: performance.now() - start };
    });
  }
}

async function start(model, wasm) {
  try {
    const ort = await import("./onnxruntime/ort.js");
    ort.env.wasm.wasmBinary = wasm;
    ort.env.wasm.numThreads = 1; // one is fastest for a single user
    ort.env.logLevel = "error";
    const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
    return { ort, session };
  } catch (error) {
    throw new PageError(
      "The model does not start in this browser",
      `It says: ${error.message ?? error}. A newer browser may help.`,
    );
  }
}

async function fetchJson(name) {
  const bytes = await fetchBytes(name);
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    throw new PageError(`${name} is damaged`, `It is no JSON. ${BUILD_AGAIN}`);
  }
}

/** Fetch a file of the page, calling `onBytes` with the size of each part that arrives. */
async function fetchBytes(name, onBytes = () => {}) {
  let response;
  const parts = [];
  try {
    // Asks the server whether its file is still the one kept here: all files are of one build.
    response = await fetch(name, { cache: "no-cache" });
    if (response.ok) {
      const reader = response.body.getReader();
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        parts.push(part.value);
        onBytes(part.value.length);
      }
    }
  } catch {
    throw new PageError(`${name} could not be loaded`, "Is the server still there? Then try again.");
  }
  if (!response.ok) {
    throw new PageError(`${name} is missing`, `The server answered ${response.status}. ${BUILD_AGAIN}`);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** Undo gzip, unless the server has already told the browser to. */
async function unpack(bytes, name) {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  try {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    throw new PageError(`${name}.gz is damaged`, `It cannot be unpacked. ${BUILD_AGAIN}`);
  }
}

const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
