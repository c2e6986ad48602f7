// A browser for the scenarios: Debian's Chromium, watched for everything that a page must not do.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const ADDRESS = process.env.PAGE_URL;
const ORIGIN = new URL(ADDRESS).origin;

export function check(truth, what) {
  if (!truth) throw new Error(`not so: ${what}`);
}

export async function same(found, wanted, what) {
  check(JSON.stringify(await found) === JSON.stringify(wanted), `${what}: ${JSON.stringify(await found)}, not ${JSON.stringify(wanted)}`);
}

// Runs a scenario on an open page; `faults` may name what the console is allowed to say.
export async function scenario(name, options, act, faults = /^$/) {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: FLAGS });
  try {
    const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(30_000);
    const wrong = [];
    context.on("request", (request) => request.url().startsWith(`${ORIGIN}/`) || wrong.push(`a request to ${request.url()}`));
    page.on("pageerror", (error) => wrong.push(`an error: ${error.message}`));
    page.on("console", (message) => {
      if (message.type() === "error" && !faults.test(message.text())) wrong.push(`the console says ${message.text()}`);
    });
    await page.goto(ADDRESS);
    await page.waitForURL(`${ORIGIN}/`);
    await page.waitForSelector("#example-list button");
    await act(page, (part) => shoot(page, `${name}-${part}`));
    await same(wrong, [], "what the page must not do");
  } finally {
    await browser.close();
  }
}

async function shoot(page, name) {
  const folder = process.env.FHEINFER_SCREENSHOTS;
  if (!folder) return;
  await still(page);
  await page.screenshot({ path: `${folder}/${name}.png`, fullPage: true });
}

// Waits until nothing moves but what never ends.
async function still(page) {
  await page.waitForSelector("#shrinking", { state: "hidden" });
  await page.evaluate(() => Promise.all(document.getAnimations().map((one) => one.effect.getTiming().iterations === Infinity || one.finished)));
}

export async function accessible(page, when) {
  await still(page);
  const { violations } = await page.evaluate(`${AXE}; axe.run(document)`);
  const serious = violations.filter((one) => ["serious", "critical"].includes(one.impact));
  await same(serious.map((one) => [one.id, ...one.nodes.map((node) => node.target.join(" "))]), [], `axe, ${when}`);
}

export const answered = (page) => page.waitForSelector('#stage[data-state="done"]');
export const texts = (page, selector) => page.locator(selector).allInnerTexts();

// Has the test do something, and waits until that is done.
export async function please(word) {
  console.log(word);
  await new Promise((done) => process.stdin.once("data", done));
}
