// The calls of packages from npm: a row of docs/clients.md each. run.mjs checks them.
//
// embeds: the vectors of texts, which must be those of a plain request with the same `model` and `fields`.
// ranks: [index, score] of documents, best first, which must be those of a plain request.
// does: anything else; it asserts by itself.
// refused: the message that the caller sees.

import assert from "node:assert/strict";

import { createCohere } from "@ai-sdk/cohere";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { createTogetherAI } from "@ai-sdk/togetherai";
import { HuggingfaceServerEmbeddingFunction } from "@chroma-core/huggingface-server";
import { OpenAIEmbeddingFunction } from "@chroma-core/openai";
import { InferenceClient } from "@huggingface/inference";
import { CohereEmbeddings, CohereRerank as LangChainRerank } from "@langchain/cohere";
import { OllamaEmbeddings } from "@langchain/ollama";
import { OpenAIEmbeddings } from "@langchain/openai";
import { CohereRerank } from "@llamaindex/cohere";
import { Document, MetadataMode } from "@llamaindex/core/schema";
import { JinaAIEmbedding } from "@llamaindex/jinaai";
import { OpenAIEmbedding } from "@llamaindex/openai";
import { Mistral } from "@mistralai/mistralai";
import { embedMany, rerank } from "ai";
import { CohereClient, CohereClientV2 } from "cohere-ai";
import { createJina } from "jina-ai-provider";
import { Ollama } from "ollama";
import OpenAI, { AzureOpenAI } from "openai";
import Together from "together-ai";
import { createVoyage } from "voyage-ai-provider";
import { VoyageAIClient } from "voyageai";

import { MODEL, PROMPTED, QUERY, RERANKER, SERVER, TEXTS } from "./plain.mjs";

const apiKey = "unused";
const baseURL = `${SERVER}/v1`;
const KNOWN = "text-embedding-3-small";
// an alias of MODEL

const embeddings = (answer) => answer.data.map((one) => one.embedding);
const indexed = (ranking) => ranking.map((one) => [one.index, one.score]);
const results = (ranking) => ranking.map((one) => [one.index, one.relevanceScore]);
const once = { maxRetries: 0 };
// of the AI SDK

const openai = new OpenAI({ baseURL, apiKey, ...once });
const cohere = new CohereClient({ environment: SERVER, token: apiKey });
const cohereV2 = new CohereClientV2({ environment: SERVER, token: apiKey });
const huggingFace = new InferenceClient(apiKey);
const voyage = new VoyageAIClient({ environment: baseURL, apiKey });
const together = new Together({ baseURL, apiKey, ...once });
const mistral = new Mistral({ serverURL: SERVER, apiKey });

const WITH_BASE = '`baseURL: "URL/v1"`';
const WITH_ENVIRONMENT = '`environment: "URL"`';

export const CALLS = [
  {
    client: "openai",
    setting: WITH_BASE,
    calls: [
      {
        call: "`embeddings.create`, in base64 as it asks by itself",
        embeds: async (texts) => embeddings(await openai.embeddings.create({ model: KNOWN, input: texts })),
      },
      {
        call: "`dimensions`; fields of other APIs beside its own: `task`",
        fields: { model: PROMPTED, dimensions: 64, task: "query" },
        embeds: async (texts) =>
          embeddings(await openai.embeddings.create({ model: PROMPTED, input: texts, dimensions: 64, task: "query" })),
      },
      {
        call: "`models.list`, `models.retrieve`",
        does: async () => {
          assert.equal((await openai.models.list()).data[0].id, MODEL);
          assert.equal((await openai.models.retrieve(KNOWN)).id, MODEL);
        },
      },
      {
        call: "errors: `NotFoundError` with our message",
        does: async () => {
          const isOurs = (error) =>
            error instanceof OpenAI.NotFoundError && error.code === "model_not_found" && /no model 'x'/.test(error);
          await assert.rejects(() => openai.embeddings.create({ model: "x", input: "a" }), isOurs);
        },
      },
      {
        call: '`AzureOpenAI({ endpoint: "URL" })`; the deployment is the model',
        embeds: async (texts) => {
          const azure = new AzureOpenAI({ endpoint: SERVER, apiKey, apiVersion: "2024-10-21", deployment: MODEL });
          return embeddings(await azure.embeddings.create({ model: MODEL, input: texts }));
        },
      },
    ],
  },
  {
    client: "@langchain/openai",
    setting: '`configuration: { baseURL: "URL/v1" }`',
    calls: [
      {
        call: "`OpenAIEmbeddings.embedDocuments`, `embedQuery`",
        embeds: async (texts) => {
          const client = new OpenAIEmbeddings({ model: MODEL, apiKey, configuration: { baseURL } });
          return [await client.embedQuery(texts[0]), ...(await client.embedDocuments(texts.slice(1)))];
        },
      },
      {
        call: "errors with our message",
        refused: /there is no model 'x'/,
        does: () => new OpenAIEmbeddings({ model: "x", apiKey, configuration: { baseURL }, ...once }).embedQuery("a"),
      },
    ],
  },
  {
    client: "@chroma-core/openai",
    setting: '`apiBase: "URL/v1"`',
    calls: [
      {
        call: "`OpenAIEmbeddingFunction.generate`",
        embeds: (texts) => new OpenAIEmbeddingFunction({ modelName: MODEL, apiKey, apiBase: baseURL }).generate(texts),
      },
    ],
  },
  {
    client: "@chroma-core/huggingface-server",
    setting: '`url: "URL/embed"`',
    calls: [
      {
        call: "`HuggingfaceServerEmbeddingFunction.generate`",
        embeds: (texts) => new HuggingfaceServerEmbeddingFunction({ url: `${SERVER}/embed` }).generate(texts),
      },
    ],
  },
  {
    client: "@ai-sdk/openai-compatible",
    setting: WITH_BASE,
    calls: [
      {
        call: "`embedMany` of `ai`",
        embeds: async (values) => {
          const model = createOpenAICompatible({ name: "conch", baseURL, apiKey }).embeddingModel(MODEL);
          return (await embedMany({ model, values, ...once })).embeddings;
        },
      },
      {
        call: "errors with our message",
        refused: /there is no model 'x'/,
        does: () => {
          const model = createOpenAICompatible({ name: "conch", baseURL, apiKey }).embeddingModel("x");
          return embedMany({ model, values: TEXTS, ...once });
        },
      },
    ],
  },
  {
    client: "@ai-sdk/openai",
    setting: WITH_BASE,
    calls: [
      {
        call: "`embedMany` of `ai`, with `dimensions`",
        fields: { model: PROMPTED, dimensions: 64 },
        embeds: async (values) => {
          const model = createOpenAI({ baseURL, apiKey }).embeddingModel(PROMPTED);
          const providerOptions = { openai: { dimensions: 64 } };
          return (await embedMany({ model, values, providerOptions, ...once })).embeddings;
        },
      },
    ],
  },
  {
    client: "@ai-sdk/cohere",
    setting: '`baseURL: "URL/v2"`',
    calls: [
      {
        call: "`embedMany` of `ai`, with `inputType`",
        fields: { model: PROMPTED, task: "document" },
        embeds: async (values) => {
          const model = createCohere({ baseURL: `${SERVER}/v2`, apiKey }).embeddingModel(PROMPTED);
          const providerOptions = { cohere: { inputType: "search_document" } };
          return (await embedMany({ model, values, providerOptions, ...once })).embeddings;
        },
      },
      {
        call: "`rerank` of `ai`",
        ranks: async (query, documents) => {
          const model = createCohere({ baseURL: `${SERVER}/v2`, apiKey }).reranking(RERANKER);
          const { ranking } = await rerank({ model, query, documents, ...once });
          return ranking.map((one) => [one.originalIndex, one.score]);
        },
      },
    ],
  },
  {
    client: "@ai-sdk/togetherai",
    setting: WITH_BASE,
    calls: [
      {
        call: "`embedMany` of `ai`",
        embeds: async (values) => {
          const model = createTogetherAI({ baseURL, apiKey }).embeddingModel(MODEL);
          return (await embedMany({ model, values, ...once })).embeddings;
        },
      },
      {
        call: "`rerank` of `ai`, of objects with `rankFields`",
        ranks: async (query, texts) => {
          const model = createTogetherAI({ baseURL, apiKey }).reranking(RERANKER);
          const documents = texts.map((text, i) => ({ title: `Nothing ${i}`, text }));
          const providerOptions = { togetherai: { rankFields: ["text"] } };
          const { ranking } = await rerank({ model, query, documents, providerOptions, ...once });
          return ranking.map((one) => [one.originalIndex, one.score]);
        },
      },
    ],
  },
  {
    client: "voyage-ai-provider",
    setting: WITH_BASE,
    calls: [
      {
        call: "`embedMany` of `ai`, with `inputType`",
        fields: { model: PROMPTED, task: "query" },
        embeds: async (values) => {
          const model = createVoyage({ baseURL, apiKey }).textEmbeddingModel(PROMPTED);
          const providerOptions = { voyage: { inputType: "query" } };
          return (await embedMany({ model, values, providerOptions, ...once })).embeddings;
        },
      },
      {
        call: "`rerank` of `ai`",
        ranks: async (query, documents) => {
          const model = createVoyage({ baseURL, apiKey }).reranking(RERANKER);
          const { ranking } = await rerank({ model, query, documents, ...once });
          return ranking.map((one) => [one.originalIndex, one.score]);
        },
      },
    ],
  },
  {
    client: "jina-ai-provider",
    setting: WITH_BASE,
    calls: [
      {
        call: "`embedMany` of `ai`, with `inputType`",
        fields: { model: PROMPTED, task: "query" },
        embeds: async (values) => {
          const model = createJina({ baseURL, apiKey }).textEmbeddingModel(PROMPTED);
          const providerOptions = { jina: { inputType: "retrieval.query" } };
          return (await embedMany({ model, values, providerOptions, ...once })).embeddings;
        },
      },
    ],
  },
  {
    client: "voyageai",
    setting: '`environment: "URL/v1"`',
    calls: [
      {
        call: "`embed`",
        fields: { model: PROMPTED, task: "document" },
        embeds: async (input) =>
          embeddings(await voyage.embed({ model: PROMPTED, input, inputType: "document" })),
      },
      {
        call: "`rerank`, without `topK`",
        ranks: async (query, documents) => results((await voyage.rerank({ model: RERANKER, query, documents })).data),
      },
      {
        call: "errors with our message",
        refused: /there is no model 'x'/,
        does: () => voyage.embed({ model: "x", input: "a" }),
      },
    ],
  },
  {
    client: "cohere-ai",
    setting: WITH_ENVIRONMENT,
    calls: [
      {
        call: "`CohereClientV2.embed`",
        fields: { model: PROMPTED, task: "document" },
        embeds: async (texts) => {
          const asked = { model: PROMPTED, texts, inputType: "search_document", embeddingTypes: ["float"] };
          return (await cohereV2.embed(asked)).embeddings.float;
        },
      },
      {
        call: "`CohereClientV2.rerank`",
        ranks: async (query, documents) =>
          results((await cohereV2.rerank({ model: RERANKER, query, documents })).results),
      },
      {
        call: "`CohereClient.embed` (v1)",
        embeds: async (texts) => (await cohere.embed({ model: MODEL, texts, inputType: "search_query" })).embeddings,
      },
      {
        call: "`CohereClient.rerank` (v1), of objects with `rankFields`",
        ranks: async (query, texts) => {
          const documents = texts.map((text) => ({ text }));
          return results((await cohere.rerank({ model: RERANKER, query, documents, rankFields: ["text"] })).results);
        },
      },
      {
        call: "errors with our message",
        refused: /there is no model 'x'/,
        does: () => cohereV2.rerank({ model: "x", query: "a", documents: ["b"] }),
      },
    ],
  },
  {
    client: "@langchain/cohere",
    setting: 'a `CohereClient` with `environment: "URL"`',
    calls: [
      {
        call: "`CohereEmbeddings.embedDocuments`",
        fields: { model: PROMPTED, task: "document" },
        embeds: (texts) => new CohereEmbeddings({ model: PROMPTED, client: cohere }).embedDocuments(texts),
      },
      {
        call: "`CohereRerank.rerank`",
        ranks: async (query, documents) => {
          const reranker = new LangChainRerank({ model: RERANKER, client: cohere });
          return results(await reranker.rerank(documents, query, { topN: documents.length }));
        },
      },
    ],
  },
  {
    client: "@llamaindex/openai",
    setting: WITH_BASE,
    calls: [
      {
        call: "`OpenAIEmbedding.getTextEmbeddings`",
        embeds: (texts) => new OpenAIEmbedding({ model: MODEL, apiKey, baseURL }).getTextEmbeddings(texts),
      },
    ],
  },
  {
    client: "@llamaindex/cohere",
    setting: '`baseUrl: "URL"`',
    calls: [
      {
        call: "`CohereRerank.postprocessNodes`",
        ranks: async (query, texts) => {
          const reranker = new CohereRerank({ model: RERANKER, apiKey, baseUrl: SERVER, topN: texts.length });
          const nodes = texts.map((text) => ({ node: new Document({ text }) }));
          const found = await reranker.postprocessNodes(nodes, query);
          return found.map((one) => [texts.indexOf(one.node.getContent(MetadataMode.NONE)), one.score]);
        },
      },
    ],
  },
  {
    client: "@llamaindex/jinaai",
    setting: '`baseURL: "URL/v1/embeddings"`',
    calls: [
      {
        call: "`JinaAIEmbedding.getTextEmbeddings`",
        embeds: (texts) =>
          new JinaAIEmbedding({ model: MODEL, apiKey, baseURL: `${baseURL}/embeddings` }).getTextEmbeddings(texts),
      },
    ],
  },
  {
    client: "@huggingface/inference",
    setting: '`endpointUrl: "URL"`',
    calls: [
      {
        call: "`featureExtraction`, also at `URL/embed`",
        embeds: async (inputs) => [
          ...(await huggingFace.featureExtraction({ inputs: inputs.slice(0, 1), endpointUrl: SERVER })),
          ...(await huggingFace.featureExtraction({ inputs: inputs.slice(1), endpointUrl: `${SERVER}/embed` })),
        ],
      },
      {
        call: "`sentenceSimilarity`, also at `URL/similarity`",
        does: async ({ plain }) => {
          const [source, ...others] = await plain.embed([QUERY, ...TEXTS]);
          const expected = others.map((vector) => vector.reduce((sum, value, i) => sum + value * source[i], 0));
          for (const endpointUrl of [SERVER, `${SERVER}/similarity`]) {
            const inputs = { source_sentence: QUERY, sentences: TEXTS };
            const found = await huggingFace.sentenceSimilarity({ inputs, endpointUrl });
            found.forEach((value, i) => assert.ok(Math.abs(value - expected[i]) < 1e-4));
          }
        },
      },
    ],
  },
  {
    client: "together-ai",
    setting: WITH_BASE,
    calls: [
      {
        call: "`embeddings.create`",
        embeds: async (input) => embeddings(await together.embeddings.create({ model: MODEL, input })),
      },
      {
        call: "`rerank.create`, of objects with `rank_fields`",
        ranks: async (query, texts) => {
          const documents = texts.map((text, i) => ({ title: `Nothing ${i}`, text }));
          const asked = { model: RERANKER, query, documents, rank_fields: ["text"] };
          return (await together.rerank.create(asked)).results.map((one) => [one.index, one.relevance_score]);
        },
      },
    ],
  },
  {
    client: "@mistralai/mistralai",
    setting: '`serverURL: "URL"`',
    calls: [
      {
        call: "`embeddings.create`",
        embeds: async (inputs) => embeddings(await mistral.embeddings.create({ model: MODEL, inputs })),
      },
    ],
  },
  {
    client: "ollama",
    setting: '`host: "URL"`',
    calls: [
      {
        call: "`embed`",
        embeds: async (input) => (await new Ollama({ host: SERVER }).embed({ model: MODEL, input })).embeddings,
      },
      {
        call: "`embeddings`, of one text",
        embeds: async (texts) => {
          const ollama = new Ollama({ host: SERVER });
          const vectors = [];
          for (const prompt of texts) vectors.push((await ollama.embeddings({ model: MODEL, prompt })).embedding);
          return vectors;
        },
      },
      {
        call: "`list`",
        does: async () => {
          const { models } = await new Ollama({ host: SERVER }).list();
          assert.ok(models.some((one) => one.name === `${MODEL}:latest`));
        },
      },
      {
        call: "errors with our message",
        refused: /there is no model 'x'/,
        does: () => new Ollama({ host: SERVER }).embed({ model: "x", input: "a" }),
      },
    ],
  },
  {
    client: "@langchain/ollama",
    setting: '`baseUrl: "URL"`',
    calls: [
      {
        call: "`OllamaEmbeddings.embedDocuments`",
        embeds: (texts) => new OllamaEmbeddings({ model: MODEL, baseUrl: SERVER }).embedDocuments(texts),
      },
    ],
  },
];
