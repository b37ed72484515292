import * as compare from "./compare.js";
import * as inspect from "./inspect.js";
import { watch } from "./live.js";
import * as models from "./models.js";
import * as pictures from "./pictures.js";
import * as rerank from "./rerank.js";

models.listen();
pictures.listen();
compare.listen();
rerank.listen();
inspect.listen();
rerank.example();
inspect.example();
await Promise.all([compare.example(), watch()]);
