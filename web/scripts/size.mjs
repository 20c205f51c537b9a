/**
 * Fails when the page's first load grows beyond its budget: every script that index.html names, gzipped.
 *
 * What is loaded later (the highlighter, its languages, formulas) does not count: nobody waits for it.
 */
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const BUDGET_KB = 150;
const page = join(dirname(fileURLToPath(import.meta.url)), "../../src/lamplighter/page");

let html;
try {
  html = readFileSync(join(page, "index.html"), "utf8");
} catch {
  console.error(`There is no built page in ${page}: run "npm run build" first.`);
  process.exit(2);
}
const scripts = [...html.matchAll(/(?:src|href)="\/([^"]+\.js)"/g)].map((match) => match[1]);
if (scripts.length === 0) {
  console.error("index.html names no script: the measurement would be of nothing.");
  process.exit(2);
}
let total = 0;
for (const script of scripts) {
  const size = gzipSync(readFileSync(join(page, script)), { level: 9 }).length / 1024;
  total += size;
  console.log(`${size.toFixed(1).padStart(7)} KB  ${script}`);
}
console.log(`${total.toFixed(1).padStart(7)} KB  of ${BUDGET_KB} KB`);
process.exit(total > BUDGET_KB ? 1 : 0);
