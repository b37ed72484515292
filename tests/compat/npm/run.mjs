// Makes all calls, and tells `loadtest.experiments.compat` of each: `node run.mjs` with COMPAT_URL and COMPAT_ROWS.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { after, describe, test } from "node:test";

import { CALLS } from "./calls.mjs";
import * as plain from "./plain.mjs";

const MANY = Array.from({ length: 100 }, (_, i) => `text ${i}`);
const rows = [];

async function check(call) {
  if (call.embeds) {
    for (const texts of [plain.TEXTS, MANY]) {
      plain.assertSame(await call.embeds(texts), await plain.embed(texts, call.fields));
    }
  } else if (call.ranks) {
    plain.assertRanked(await call.ranks(plain.QUERY, plain.TEXTS), await plain.rank(plain.QUERY, plain.TEXTS));
  } else if (call.refused) {
    await assert.rejects(async () => call.does(), call.refused);
  } else {
    await call.does({ plain });
  }
}

for (const { client, setting, calls } of CALLS) {
  const { version } = JSON.parse(readFileSync(new URL(`node_modules/${client}/package.json`, import.meta.url)));
  describe(client, () => {
    for (const call of calls) {
      const row = { client: `${client} (npm)`, version, setting, call: call.call, passed: false };
      rows.push(row);
      test(call.call, { timeout: 60_000 }, async () => {
        await check(call);
        row.passed = true;
      });
    }
  });
}

after(() => {
  if (process.env.COMPAT_ROWS) writeFileSync(process.env.COMPAT_ROWS, JSON.stringify(rows));
});
