import type { Recommender, Runtime } from "./client.js";

export { ModelError, Recommender } from "./client.js";

/** Open a folder that `python -m export.to_onnx` wrote; `ort` is onnxruntime-node. */
export function openFolder(
  ort: Runtime,
  folder: string,
  sessionOptions?: object,
): Promise<Recommender>;
