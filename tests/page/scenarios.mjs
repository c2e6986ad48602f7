// What a person does with the page: node scenarios.mjs NAME, by test_browser.py.

import { accessible, answered, check, please, same, scenario, texts } from "./browser.mjs";

const IMAGE = process.env.IMAGE;
const DONE = Array(7).fill("done");
const states = (page) => page.locator("#steps li").evaluateAll((rows) => rows.map((row) => row.className));
const focused = (page) => page.evaluate(() => document.activeElement.id || document.activeElement.textContent.trim());

async function wholeWay() {
  await scenario("whole", {}, async (page, shoot) => {
    check(!page.url().includes("token"), "the token left the address");
    await same(page.evaluate(() => document.cookie), "", "no script reads the cookie");
    await accessible(page, "at the start");
    await shoot("1-start");

    await page.check("#compare");
    await page.click("text=vale.jpg");
    await answered(page);
    await page.waitForSelector("text=PyTorch, in clear");
    await shoot("2-answer");
    await accessible(page, "with an answer");

    await same(states(page), DONE, "every step is done");
    check((await texts(page, "#steps .time")).every((time) => /\ss$/.test(time)), "every step has its seconds");
    check((await texts(page, "#steps .note"))[0].startsWith("made now"), "keys were made");
    const bars = await texts(page, ".bars tbody tr");
    check(bars.length === 10 && bars.every((bar) => bar.match(/%/g).length === 2), "ten classes, both ways");
    check((await page.innerText("#answers")).includes("Both say the same"), "PyTorch agrees");
    check((await page.innerText("#said")).startsWith("The answer: "), "a screen reader hears it");

    const sizes = await page.$$eval("#seen, #sent", (images) => images.map((image) => [image.naturalWidth, image.hidden]));
    await same(sizes, [[8, false], [64, false]], "what the network sees, and noise");
    check(/^([0-9a-f]{2} ){23}[0-9a-f]{2}$/.test(await page.innerText("#saw-bytes")), "a few bytes are shown");
    check(/[0-9.]+\s(k|M)?B \([0-9,]+ bytes\)/.test(await page.innerText("#saw-size")), "and how many there are");

    await page.setInputFiles("#file", IMAGE);
    await page.waitForSelector("#stage-title >> text=tiny.png");
    await answered(page);
    check((await texts(page, "#steps .note"))[0] === "are there", "keys are made once");
    await same(page.locator("#past li").count(), 2, "both are in the history");
    await page.click("#past li:last-child button");
    await page.waitForSelector("#stage-title >> text=vale.jpg");
    await same(page.getAttribute("#past li:last-child button", "aria-current"), "true", "which one is looked at");
    await page.reload();
    await page.waitForSelector("#past li:nth-child(2)"); // the history outlives the window
    await page.click("#clear");
    await page.waitForSelector("#history", { state: "hidden" });

    await please("end the program");
    await page.click("text=vale.jpg");
    await page.waitForSelector("#problem >> text=has ended");
    check((await page.innerText("#problem")).includes("fheinfer app"), "what to do");
    await shoot("3-ended");
  }, /ERR_CONNECTION_REFUSED/); // which the console tells at the end
}

async function keyboard() {
  await scenario("keyboard", {}, async (page, shoot) => {
    page.on("filechooser", (chooser) => chooser.setFiles(IMAGE));
    await page.waitForSelector("#compare");
    const order = [];
    for (let presses = 0; presses < 6; presses += 1) {
      await page.keyboard.press("Tab");
      order.push(await focused(page));
    }
    await same(order, ["Skip to choosing an image", "file", "vale.jpg", "luis.png", "airplane.png", "compare"], "the order of focus");
    await page.keyboard.press("Space");
    check(await page.isChecked("#compare"), "the space bar ticks the box");
    await page.keyboard.press("Shift+Tab");
    await shoot("1-focus");
    await page.keyboard.press("Enter");
    await answered(page);
    check((await page.innerText("#stage-title")) === "airplane.png", "Enter takes the example");

    await page.focus("#file");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#stage-title >> text=tiny.png");
    await answered(page);
    await page.waitForSelector("#past li:nth-child(2)");
    await page.focus("#clear");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#history", { state: "hidden" });
    await same(focused(page), "choose", "focus is not lost");
  });
}

async function noImage() {
  const refused = /status of 400/; // which the console tells of a refusal
  await scenario("no-image", {}, async (page, shoot) => {
    const buffer = Buffer.from("these are notes");
    await page.setInputFiles("#file", { name: "notes.txt", mimeType: "text/plain", buffer });
    await page.waitForSelector("#problem >> text=cannot be used as an image");
    check((await page.innerText("#problem")).includes("notes.txt: not an image that can be read; use PNG or JPEG."), "what to do");
    await same(page.getAttribute("#problem", "role"), "alert", "a screen reader is told");
    await accessible(page, "with an error");
    await shoot("1-refused");

    const dropped = await page.evaluateHandle(async () => {
      const data = new DataTransfer();
      const image = await (await fetch("/api/examples/luis.png")).blob();
      data.items.add(new File([image], "dropped.png", { type: "image/png" }));
      return data;
    });
    await page.dispatchEvent("body", "drop", { dataTransfer: dropped });
    await page.waitForSelector("#stage-title >> text=dropped.png");
    await answered(page);
    await same(page.innerText("#problem"), "", "the error is gone");
  }, refused);
}

async function looks() {
  const phone = { width: 360, height: 740 };
  await scenario("looks", { colorScheme: "dark", viewport: phone, reducedMotion: "reduce" }, async (page, shoot) => {
    await page.check("#compare");
    await page.click("text=luis.png");
    await answered(page);
    await page.waitForSelector("text=PyTorch, in clear");
    await page.waitForSelector("#past li");
    await same(page.evaluate(() => document.getAnimations().length), 0, "nothing moves");
    for (const colorScheme of ["dark", "light"]) {
      await page.emulateMedia({ colorScheme });
      const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number));
      check(colorScheme === "dark" ? Math.max(...ground) < 60 : Math.min(...ground) > 200, `it is ${colorScheme}`);
      await page.setViewportSize(phone);
      check((await page.evaluate(() => document.documentElement.scrollWidth)) <= 360, "nothing is wider than the phone");
      await accessible(page, `${colorScheme}, on a phone`);
      await shoot(`phone-${colorScheme}`);
      await page.setViewportSize({ width: 1280, height: 900 });
      await accessible(page, `${colorScheme}, on a desk`);
      await shoot(`desk-${colorScheme}`);
    }
  });
}

async function serverGone() {
  await scenario("gone", {}, async (page, shoot) => {
    await page.click("text=vale.jpg");
    await page.waitForSelector(".trouble.waiting >> text=goes on by itself");
    await shoot("1-waiting");
    await accessible(page, "while the server is away");
    await please("bring the server back");
    await answered(page);
    await same(states(page), DONE, "it went on to the end");
    await same(page.innerText("#trouble"), "", "nothing is wrong any more");
    await shoot("2-answer");
  });
}

const all = { wholeWay, keyboard, noImage, looks, serverGone };
try {
  await all[process.argv[2]]();
  process.exit(0);
} catch (error) {
  console.error(error.message);
  process.exit(1);
}
