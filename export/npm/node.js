// Opens a recommender's folder in Node.js; `ort` is onnxruntime-node.

import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { ModelError, Recommender } from "./client.js";

export { ModelError, Recommender };

/** Read the folder and open it; one thread is fastest for a single user. */
export async function openFolder(ort, folder, sessionOptions = {}) {
  const read = async (name) => {
    try {
      return new Uint8Array(await readFile(join(folder, name)));
    } catch (error) {
      throw new ModelError(`${folder} holds no usable ${name} (${error.code ?? error})`);
    }
  };
  const [config, items, model] = await Promise.all(
    ["config.json", "items.json", "model.onnx"].map(read),
  );
  const options = { intraOpNumThreads: 1, logSeverityLevel: 3, ...sessionOptions }; // 3: errors
  return Recommender.open(ort, { config, items, model, sessionOptions: options });
}
