// Opens a recommender's folder in Node.js; `ort` is onnxruntime-node.

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { DATA, ModelError, Recommender, json, verify } from "./client.js";

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
  const about = json(config, "config.json");
  if (!about.sha256?.[DATA]) {
    return Recommender.open(ort, { config, items, model, sessionOptions: options });
  }
  await verify("model.onnx", model, about);
  await verifyData(folder, about.sha256[DATA]);
  const path = join(folder, "model.onnx"); // the runtime maps the tables beside it
  return Recommender.open(ort, { config, items, model: path, sessionOptions: options });
}

async function verifyData(folder, expected) {
  const hash = createHash("sha256");
  try {
    for await (const part of createReadStream(join(folder, DATA))) hash.update(part);
  } catch (error) {
    throw new ModelError(`${folder} holds no usable ${DATA} (${error.code ?? error})`);
  }
  const found = hash.digest("hex");
  if (found !== expected) {
    throw new ModelError(`${DATA} is damaged: SHA-256 is ${found}, expected ${expected}`);
  }
}
