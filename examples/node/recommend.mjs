// Recommendations in Node.js, from the folder that Python exported.
//
//     npm pack ./export/npm
//     npm install --ignore-scripts onnxruntime-node ./llm-seqrec-0.1.0.tgz
//     node examples/node/recommend.mjs runs/ml-100k/export/gru-distilled-int8 50 172 181
//
// Prints the ten best items as JSON, items of the history left out, as Python's
// Recommender.recommend does.
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

// Packages are looked up where the command is started, not beside this file.
const installed = createRequire(join(process.cwd(), "package.json"));
const { openFolder } = await import(pathToFileURL(installed.resolve("llm-seqrec/node")));

const [folder, ...history] = process.argv.slice(2);
const recommender = await openFolder(installed("onnxruntime-node"), folder);
console.log(JSON.stringify(await recommender.recommend(history)));
