// Recommendations in Node.js, from the folder that Python exported.
//
//     npm install --ignore-scripts onnxruntime-node
//     node examples/node/recommend.mjs runs/ml-100k/export/gru-distilled-int8 50 172 181
//
// Prints the ten best items as JSON, items of the history left out, as Python's
// Recommender.recommend does.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

// onnxruntime-node is looked up where the command is started, not beside this file.
const ort = createRequire(join(process.cwd(), "package.json"))("onnxruntime-node");

const int64 = (numbers, shape) => new ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), shape);

export async function open(folder) {
  const { ids, titles } = JSON.parse(readFileSync(join(folder, "items.json"), "utf8"));
  const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
  const session = await ort.InferenceSession.create(join(folder, "model.onnx"), {
    intraOpNumThreads: 1,
    logSeverityLevel: 3, // errors
  });
  const numbers = new Map(ids.map((id, index) => [id, index + 1])); // item numbers start at 1
  return async function recommend(history, k = 10) {
    const seen = history.map((id) => numbers.get(id)).filter((number) => number !== undefined);
    if (!seen.length) throw new Error("the history holds no item of the catalogue");
    const newest = seen.slice(-config.max_len); // what the model looks at
    const answer = await session.run({
      items: int64(newest, [1, newest.length]),
      excluded: int64(seen, [1, seen.length]),
      k: int64([Math.min(k, ids.length)], [1]),
    });
    return [...answer.top_items.data]
      .map((number, rank) => ({ number: Number(number), score: answer.top_scores.data[rank] }))
      .filter(({ score }) => score > -Infinity) // fewer than k were left
      .map(({ number, score }) => ({ item_id: ids[number - 1], title: titles[number - 1], score }));
  };
}

const [folder, ...history] = process.argv.slice(2);
const recommend = await open(folder);
console.log(JSON.stringify(await recommend(history)));
