/**
 * Pictures of the page in its states, on the built page and the mock, and axe's opinion of each.
 *
 *   npm run build && npm run shots [-- OUT_FOLDER]      CHROMIUM=/usr/bin/chromium by default
 *
 * Exits with 1 when axe finds something, so that it can be a check.
 */
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { startMock } from "../mock/server.mjs";

const out = process.argv[2] ?? "test-results/shots";
mkdirSync(out, { recursive: true });
const axeSource = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: FLAGS,
});
let complaints = 0;

async function shoot(page, name) {
  await page.waitForTimeout(250);
  await page.screenshot({ path: join(out, `${name}.png`) });
  await page.evaluate(axeSource);
  const { violations } = await page.evaluate(() =>
    globalThis.axe.run(document, { resultTypes: ["violations"] }),
  );
  for (const violation of violations) {
    complaints += 1;
    console.log(`${name}: ${violation.id}: ${violation.help}`);
    for (const node of violation.nodes.slice(0, 3))
      console.log(`    ${node.html.slice(0, 160)}\n    ${node.any[0]?.message ?? ""}`);
  }
}

async function pick(page, model) {
  await page.getByRole("button", { name: /^Choose a model/ }).click();
  await page
    .getByRole("dialog")
    .getByRole("button", { name: new RegExp(`^${model}`) })
    .click();
}

async function ask(page, text) {
  await page.getByRole("textbox", { name: "Message" }).fill(text);
  await page.keyboard.press("Enter");
}

async function tour(kind, theme) {
  const phone = kind === "phone";
  const context = await browser.newContext({
    viewport: phone ? { width: 390, height: 844 } : { width: 1280, height: 820 },
    deviceScaleFactor: phone ? 2 : 1,
    hasTouch: phone,
    isMobile: phone,
    colorScheme: theme,
  });
  const mock = await startMock();
  const page = await context.newPage();
  page.on("console", (message) => {
    // The sign-in card is shown because of a 401, which the console always repeats.
    if (message.type() === "error" && !message.text().includes("401")) {
      complaints += 1;
      console.log(`${kind}-${theme} console: ${message.text()}`);
    }
  });
  page.on("pageerror", (error) => {
    complaints += 1;
    console.log(`${kind}-${theme} error: ${error.stack}`);
  });
  const shot = (name) => shoot(page, `${kind}-${theme}-${name}`);
  await page.goto(mock.url);
  await page.getByText(/^small · Sleeping in/).waitFor();
  await shot("1-empty");
  if (phone) await page.getByRole("button", { name: "Open the list of chats" }).click();
  await shot("2-chats");
  await page.getByRole("link", { name: "Spot or on-demand" }).click();
  await page.getByText("tok/s").first().waitFor();
  await page.waitForTimeout(700);
  await shot("3-chat");
  await page.getByRole("button", { name: /^Choose a model/ }).click();
  await shot("4-picker");
  await page.keyboard.press("Escape");
  await ask(page, "And how would I notice in time?");
  await page.waitForTimeout(1_500);
  await shot("5-streaming");
  await page.getByRole("button", { name: "Stop" }).click();
  await page.getByText("Stopped.", { exact: true }).waitFor();
  await pick(page, "llama-3.2-3b");
  await shot("6-price");
  await ask(page, "Wake up, please.");
  await page.waitForTimeout(9_500);
  await shot("6-waking");
  await ask(page, "And after that, say it again in French.");
  await shot("7-queued");
  await page
    .getByText(/woke in (1[5-9]|[2-4][0-9]) s/)
    .first()
    .waitFor({ timeout: 20_000 });
  await shot("8-woke");
  await page.goto(mock.url);
  await pick(page, "qwen2.5-7b");
  await ask(page, "Please fail.");
  await page.getByText("could not be woken").waitFor({ timeout: 20_000 });
  await shot("9-failed");
  await page.getByRole("button", { name: "Use the API" }).first().click();
  await shot("10-api");
  await page.keyboard.press("Escape");
  await page.goto(mock.url);
  mock.world.models.find((one) => one.name === "llama-3.2-3b").state = "asleep";
  mock.world.status();
  await pick(page, "llama-3.2-3b");
  await ask(page, "Is the budget large enough?");
  await page.getByText("Budget does not allow it").waitFor({ timeout: 20_000 });
  await shot("12-budget");
  await page.goto(mock.url);
  await ask(page, "Please reclaim it.");
  await page.getByText("The machine is gone").waitFor({ timeout: 40_000 });
  await page.waitForTimeout(4_000);
  await shot("13-gone");
  await page.keyboard.press("Escape");
  mock.world.signedIn = false;
  await page.reload();
  await page.getByLabel("Key").waitFor();
  await page.getByText("Where do I find one?").click();
  await shot("11-sign-in");
  await context.close();
  await mock.close();
}

const all = [
  ["desktop", "light"],
  ["desktop", "dark"],
  ["phone", "light"],
  ["phone", "dark"],
];
const only = process.argv[3];
try {
  for (const [kind, theme] of all) if (!only || only === `${kind}-${theme}`) await tour(kind, theme);
} finally {
  await browser.close();
}
console.log(complaints === 0 ? "No complaints." : `${complaints} complaints.`);
process.exit(complaints === 0 ? 0 : 1);
