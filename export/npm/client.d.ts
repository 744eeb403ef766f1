/** What is used of onnxruntime-web, onnxruntime-node or onnxruntime-react-native. */
export interface Runtime {
  Tensor: new (type: "int64", data: BigInt64Array, dims: readonly number[]) => any;
  InferenceSession: { create(model: any, options?: any): Promise<any> };
}

/** One item of an answer. Scores rank the items of one answer; they are no probabilities. */
export interface Recommendation {
  item_id: string;
  title: string;
  score: number;
}

/** An id; a number is the id that is written so. */
export type Id = string | number | bigint;

export interface Files {
  /** config.json as bytes, text or what JSON.parse made of it. */
  config: Uint8Array | string | object;
  /** items.json, the same; bytes are compared with their SHA-256. */
  items: Uint8Array | string | { ids: string[]; titles: string[] };
  /**
   * model.onnx as bytes, which are compared with their SHA-256, or its path or address. An index
   * with a model.onnx.data is opened by its path alone.
   */
  model: Uint8Array | string;
  /** For `InferenceSession.create` of the runtime. */
  sessionOptions?: object;
}

export interface Options {
  /** How many items at most: a whole number of at least 1; 10 by default. */
  k?: number;
  /** Leave out all items of the history; true by default. */
  excludeSeen?: boolean;
  /** Answer with these items only; ids that the catalogue lacks are skipped. */
  candidates?: readonly Id[];
}

/** There is no recommender, it is of another version, or it is damaged. */
export class ModelError extends Error {}

export class Recommender {
  /** Open the files of a folder that `python -m export.to_onnx` wrote. Rejects with `ModelError`. */
  static open(ort: Runtime, files: Files): Promise<Recommender>;

  /** Fetch config.json, items.json and model.onnx from a server. Rejects with `ModelError`. */
  static fetch(ort: Runtime, url: string, sessionOptions?: object): Promise<Recommender>;

  /** Item ids and titles; element i is item number i + 1. */
  readonly ids: string[];
  readonly titles: string[];
  /** How many of the newest items the model looks at. */
  readonly maxLen: number;

  /**
   * Recommend for one user, best first. Ids that the catalogue lacks are skipped. Calls may overlap:
   * they are answered one after the other.
   *
   * Rejects with `RangeError`: no id is known, or `k` is no whole number of at least 1.
   */
  recommend(history: readonly Id[], options?: Options): Promise<Recommendation[]>;
}
