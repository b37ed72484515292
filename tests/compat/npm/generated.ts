// What a TypeScript user writes with the types that openapi-typescript makes of /openapi.json: prints the answers.
import createClient from "openapi-fetch";

import type { paths } from "./api.js";

declare const process: { argv: string[]; stdout: { write(text: string): void } };
const [, , baseUrl = "", texts_ = "[]", query = "", model = "", reranker = ""] = process.argv;
const texts: string[] = JSON.parse(texts_);
const client = createClient<paths>({ baseUrl });

async function answer<Data>(call: Promise<{ data?: Data; error?: unknown }>): Promise<Data> {
  const { data, error } = await call;
  if (data === undefined) throw new Error(JSON.stringify(error));
  return data;
}

const answers = {
  "/v1/embeddings": await answer(client.POST("/v1/embeddings", { body: { input: texts, model } })),
  "/v1/rerank": await answer(client.POST("/v1/rerank", { body: { query, documents: texts, model: reranker } })),
  "/v1/models": await answer(client.GET("/v1/models")),
  "/v2/embed": await answer(
    client.POST("/v2/embed", { body: { texts, model, input_type: "search_document", embedding_types: ["float"] } }),
  ),
  "/embed": await answer(client.POST("/embed", { body: { inputs: texts } })),
  "/score": await answer(client.POST("/score", { body: { queries: query, documents: texts, model: reranker } })),
};
process.stdout.write(JSON.stringify(answers));
