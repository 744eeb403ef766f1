// The latency benchmark of this device: what `benchmarks.latency` does in Python.
//
// One request at a time, after a warm-up; each is a history of random items and random length with
// all its items excluded, prepared before the clock starts. Timed is the model's run alone.

export const SCHEMA = "seqrec-browser-latency/1";

const NUM_WARM_UP = 100;
const WARM_UP_BLOCK = 10;
const NUM_HISTORIES = 256; // gone through again and again
const SEED = 1;
const BUDGET_MS = 20_000;
const BREAK_MS = 50; // so often does the page get time to draw itself
const TICKS_PER_SAMPLE = 10; // an error of 10 % at most by the steps of the clock

/**
 * Measure, and return the content of the result's JSON file.
 *
 * @param {import("./recommender.js").Recommender} recommender
 * @param {{numRequests: number, deviceName: string, k?: number,
 *   onProgress?: (share: number) => void}} options
 */
export async function measure(
  recommender,
  { numRequests, deviceName, k = 10, onProgress = () => {} },
) {
  const requests = makeRequests(recommender, k);
  const ask = (i) => recommender.session.run(requests[i % requests.length]);
  return recommender.alone(async () => {
    const resolution = clockResolution();
    let shortest = Infinity; // of blocks: long enough for the clock, and some free of disturbance
    for (let i = 0; i < NUM_WARM_UP; i += WARM_UP_BLOCK) {
      const before = performance.now();
      for (let j = 0; j < WARM_UP_BLOCK; j++) await ask(i + j);
      shortest = Math.min(shortest, performance.now() - before);
    }
    // Where the clock is too coarse for one call, several are timed together.
    const expected = Math.max(shortest, resolution) / WARM_UP_BLOCK;
    const callsPerSample = Math.max(1, Math.ceil((TICKS_PER_SAMPLE * resolution) / expected));
    const numSamples = Math.ceil(numRequests / callsPerSample);
    const durations = [];
    const start = performance.now();
    let lastBreak = start;
    for (let sample = 0; sample < numSamples; sample++) {
      const before = performance.now();
      for (let call = 0; call < callsPerSample; call++) await ask(sample * callsPerSample + call);
      const after = performance.now();
      durations.push((after - before) / callsPerSample);
      if (after - start > BUDGET_MS) break;
      if (after - lastBreak > BREAK_MS) {
        onProgress((sample + 1) / numSamples);
        await new Promise((resolve) => setTimeout(resolve));
        await ask(sample); // the first call after a break finds cold caches
        lastBreak = performance.now();
      }
    }
    onProgress(1);
    return {
      schema: SCHEMA,
      measured_at: new Date().toISOString(),
      device: {
        name: deviceName,
        user_agent: navigator.userAgent,
        hardware_concurrency: navigator.hardwareConcurrency ?? null,
        device_memory_gib: navigator.deviceMemory ?? null,
      },
      runtime: {
        name: "onnxruntime-web",
        version: recommender.ort.env.versions.web,
        backend: "wasm",
        num_threads: recommender.ort.env.wasm.numThreads,
      },
      model: { ...recommender.model, ...about(recommender.config) },
      k,
      histories: {
        kind: "random items, random lengths",
        min_len: 1,
        max_len: recommender.maxLen,
        num_histories: NUM_HISTORIES,
        seed: SEED,
      },
      clock_resolution_ms: resolution,
      num_warm_up: NUM_WARM_UP,
      num_requests: durations.length * callsPerSample,
      calls_per_sample: callsPerSample,
      latency_ms: percentiles(durations),
    };
  });
}

/** The smallest duration that p % do not exceed, as in Python. */
export function percentiles(durations) {
  const sorted = Float64Array.from(durations).sort();
  const at = (p) => sorted[Math.ceil((p / 100) * sorted.length) - 1];
  return { p50: at(50), p95: at(95), p99: at(99) };
}

function about({ arch, role, precision, dataset, dataset_fingerprint, num_items, max_len }) {
  return { arch, role, precision, dataset, dataset_fingerprint, num_items, max_len };
}

function makeRequests(recommender, k) {
  const random = mulberry32(SEED);
  const draw = (most) => 1 + Math.floor(random() * most);
  return Array.from({ length: NUM_HISTORIES }, () => {
    const history = Array.from({ length: draw(recommender.maxLen) }, () => draw(recommender.ids.length));
    return recommender.request(history, k);
  });
}

/** A small generator of random numbers in [0, 1), the same on each device (public domain). */
function mulberry32(state) {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The clock's smallest step in milliseconds: browsers round it, from 5 µs to 1 ms. */
function clockResolution() {
  let smallest = Infinity;
  const start = performance.now();
  for (let now = start, steps = 0; steps < 50 && now - start < 200; ) {
    const next = performance.now();
    if (next > now) {
      smallest = Math.min(smallest, next - now);
      steps++;
    }
    now = next;
  }
  return Number.isFinite(smallest) ? smallest : 1;
}

/** A name for this device that its owner may change: "Pixel 8, Chrome 130, Android". */
export async function deviceName() {
  const data = navigator.userAgentData;
  const agent = navigator.userAgent;
  const details = await data?.getHighEntropyValues?.(["model"]).catch(() => ({}));
  const brand = data?.brands.find(({ brand }) => !/not.?a.?brand|^chromium$/i.test(brand));
  const browser = brand ? `${brand.brand.replace("Google ", "")} ${brand.version}` : browserIn(agent);
  const system =
    data?.platform ||
    /iPhone|iPad|Android|Windows|Macintosh|CrOS|Linux/.exec(agent)?.[0].replace("intosh", "") ||
    "unknown system";
  return [details?.model, browser, system].filter(Boolean).join(", ");
}

function browserIn(agent) {
  for (const [name, pattern] of [
    ["Firefox", /(?:Firefox|FxiOS)\/(\d+)/],
    ["Edge", /Edg\/(\d+)/],
    ["Chrome", /(?:Chrome|CriOS)\/(\d+)/],
    ["Safari", /Version\/([\d.]+).*Safari/],
  ]) {
    const found = pattern.exec(agent);
    if (found) return `${name} ${found[1]}`;
  }
  return "browser";
}
